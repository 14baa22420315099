"""Blocks on disk: what was written is read, in its order, with its metadata; others are refused."""

import pyarrow as pa
import pytest

from rollout.block_files import parts, read_block, read_metadata, write_block
from rollout.trajectory import SCHEMA
from tests.rollout.test_trajectory import PICTURES, same, segment, trajectory


def test_trajectories_and_their_pictures_come_back(tmp_path):
    played = [
        trajectory("a", (segment([(3, 5)], 8, seed=2),)),
        trajectory("b", bootstrap=True, end="truncated"),
    ]
    write_block(tmp_path / "new" / "folder", 0, played)
    (file,) = parts(tmp_path / "new" / "folder")
    read = read_block(file)
    assert len(read) == 2
    assert all(same(a, b) for a, b in zip(read, played, strict=True))
    assert [p.key for p in read[0].segments[0].pictures] == [p.key for p in PICTURES]


def test_a_part_may_be_empty_and_is_written_anew(tmp_path):
    write_block(tmp_path, 0, [trajectory()])
    write_block(tmp_path, 0, [])
    assert [read_block(file) for file in parts(tmp_path)] == [[]]
    assert {f.suffix for f in tmp_path.iterdir()} == {".arrow"}


def test_parts_are_in_the_order_of_their_numbers(tmp_path):
    for part in (10, 2, 0):
        write_block(tmp_path, part, [trajectory(f"part {part}")])
    assert [read_block(file)[0].id for file in parts(tmp_path)] == ["part 0", "part 2", "part 10"]


def test_metadata_is_of_each_part(tmp_path):
    write_block(tmp_path, 0, [trajectory()], {"model": "mine"})
    write_block(tmp_path, 1, [trajectory()])
    assert [read_metadata(file) for file in parts(tmp_path)] == [{"model": "mine"}, {}]


def test_another_schema_is_refused_by_its_columns(tmp_path):
    file = tmp_path / "trajectories-0.arrow"
    schema = SCHEMA.remove(SCHEMA.get_field_index("question")).append(pa.field("mood", pa.string()))
    with pa.ipc.new_file(str(file), schema):
        pass
    with pytest.raises(
        ValueError, match="of another version of Cardinal: its columns mood, question are"
    ):
        read_metadata(file)
