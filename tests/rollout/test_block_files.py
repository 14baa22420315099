"""Blocks on disk: what was written is read, in its order, with its metadata; others are refused."""

import re

import pyarrow as pa
import pytest

from rollout.block_files import HASH, parts, read_block, read_metadata, write_block
from rollout.trajectory import SCHEMA
from tests.rollout.test_trajectory import same
from tests.support.trajectories import PICTURES, segment, trajectory


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
    mine, none = [read_metadata(file) for file in parts(tmp_path)]
    assert mine.pop(HASH) == none.pop(HASH), "of the same content"
    assert (mine, none) == ({"model": "mine"}, {})


def test_another_schema_is_refused_by_its_columns(tmp_path):
    file = tmp_path / "trajectories-0.arrow"
    schema = SCHEMA.remove(SCHEMA.get_field_index("question")).append(pa.field("mood", pa.string()))
    with pa.ipc.new_file(str(file), schema):
        pass
    with pytest.raises(
        ValueError, match="of another version of Cardinal: its columns mood, question are"
    ):
        read_metadata(file)


def flipped(file, at):
    """Change one byte of a file."""
    data = bytearray(file.read_bytes())
    data[at] ^= 0x55
    file.write_bytes(data)


def damage(kind, folder):
    """Damage the part of a folder in one way."""
    file, pictures = folder / "trajectories-0.arrow", folder / "pictures-0.arrow"
    if kind == "no pictures":
        pictures.unlink()
    if kind == "short pictures":
        pictures.write_bytes(pictures.read_bytes()[:50])
    if kind == "empty":
        file.write_bytes(b"")
    if kind == "middle":
        data = file.read_bytes()
        third = len(data) // 3
        file.write_bytes(data[:third] + bytes(third) + data[2 * third :])
    if kind == "offsets":  # of the column of ids: they would lie outside of it
        data = file.read_bytes()
        at = data.index((0).to_bytes(4, "little") + (7).to_bytes(4, "little"), 3000)
        file.write_bytes(data[: at + 4] + (1 << 30).to_bytes(4, "little") + data[at + 8 :])
    if kind == "id":
        file.write_bytes(file.read_bytes().replace(b"episode", b"another"))
    if kind == "other pictures":
        write_block(folder / "other", 0, [trajectory("episode")])
        (folder / "other" / "pictures-0.arrow").replace(pictures)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no pictures", "part/pictures-0.arrow is missing"),
        ("short pictures", "part/pictures-0.arrow is damaged: "),
        ("empty", "part/trajectories-0.arrow is damaged: "),
        ("middle", "part/trajectories-0.arrow is damaged: "),
        ("offsets", "part/trajectories-0.arrow is damaged: "),
        ("id", "part/trajectories-0.arrow or pictures-0.arrow is damaged: not what was written"),
        ("other pictures", "part/trajectories-0.arrow or pictures-0.arrow is damaged: not what"),
    ],
)
def test_damage_is_one_sentence_that_names_the_file(tmp_path, kind, words):
    played = trajectory("episode", (segment([(3, 5)], 8, seed=2),))
    write_block(
        tmp_path / "part", 0, [played] if kind == "other pictures" else [trajectory("episode")]
    )
    damage(kind, tmp_path / "part")
    with pytest.raises(ValueError, match=f"^{re.escape(words)}") as refused:
        read_block(tmp_path / "part" / "trajectories-0.arrow")
    assert "\n" not in str(refused.value)


def test_no_byte_of_the_content_is_changed_unseen(tmp_path):
    write_block(tmp_path, 0, [trajectory("a"), trajectory("b", bootstrap=True, end="truncated")])
    (file,) = parts(tmp_path)
    whole, before, unseen = file.read_bytes(), read_block(file), []
    for at in range(0, len(whole), 97):
        flipped(file, at)
        try:
            after = read_block(file)
        except ValueError:
            continue
        finally:
            file.write_bytes(whole)
        unseen += [at] * (not all(same(a, b) for a, b in zip(after, before, strict=True)))
    assert unseen == []


def test_a_block_that_was_written_without_a_hash_is_read(tmp_path):
    write_block(tmp_path, 0, [trajectory("a")])
    for file in tmp_path.iterdir():
        batch = pa.ipc.open_file(file.read_bytes()).get_batch(0).replace_schema_metadata(None)
        with pa.ipc.new_file(str(file), batch.schema) as writer:
            writer.write_batch(batch)
    assert read_block(tmp_path / "trajectories-0.arrow")[0].id == "a"


def test_a_file_without_a_number_is_refused(tmp_path):
    (tmp_path / "trajectories-x.arrow").write_bytes(b"")
    with pytest.raises(ValueError, match=r"/trajectories-x.arrow: must be named trajectories-PART"):
        parts(tmp_path)
