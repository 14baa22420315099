"""Demonstrations on disk: the same bytes for the same seed, and users' files converted."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cluster.demonstrations import writer as demonstrations
from cluster.demonstrations.writer import convert_demonstrations, write_demonstrations
from configs.load import ConfigError

GP = "cardinal/GeneralPoints-v0"
BRIEF = {"prompt_style": "brief", "hands": "train"}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(demonstrations, "PART", 16)


def digests(folder):
    return {
        f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.glob("*.parquet"))
    }


def test_same_seed_same_bytes_and_parts(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_demonstrations(GP, BRIEF, 40, seed, tmp_path / name)
    found = [digests(tmp_path / name) for name in "abc"]
    assert list(found[0]) == [f"part-{i:05d}.parquet" for i in range(3)]
    assert found[0] == found[1] != found[2]
    rows = pq.read_table(tmp_path / "a").to_pylist()
    assert len(rows) == 40
    assert rows[0]["environment"] == GP
    assert [m["role"] for m in rows[0]["messages"]] == ["user", "assistant"]
    assert [m["train"] for m in rows[0]["messages"]] == [False, True]


def test_an_interrupted_writing_goes_on(tmp_path):
    whole = write_demonstrations(GP, BRIEF, 40, 5, tmp_path / "a")
    before = digests(whole)
    (whole / "part-00001.parquet").unlink()
    kept = (whole / "part-00000.parquet").stat().st_mtime_ns
    write_demonstrations(GP, BRIEF, 40, 5, whole)
    assert digests(whole) == before
    assert (whole / "part-00000.parquet").stat().st_mtime_ns == kept


def test_a_folder_of_something_else_is_refused(tmp_path):
    write_demonstrations(GP, BRIEF, 16, 5, tmp_path)
    with pytest.raises(ConfigError, match="demonstrations of other settings"):
        write_demonstrations(GP, BRIEF, 16, 6, tmp_path)


def test_pictures_are_png_of_what_was_seen(tmp_path):
    settings = {**BRIEF, "modality": "vision", "image_size": 128}
    write_demonstrations(GP, settings, 4, 0, tmp_path)
    (picture,) = pq.read_table(tmp_path)["images"].to_pylist()[0]
    (tmp_path / "x.png").write_bytes(picture)
    assert Image.open(tmp_path / "x.png").size == (128, 128)


def released(tmp_path, records):
    file = tmp_path / "data.json"
    file.write_text(json.dumps(records))
    return file


GOOD = {"conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "24"}]}


def test_a_release_is_converted_with_its_pictures(tmp_path):
    Image.fromarray(np.full((4, 6, 3), 7, np.uint8)).save(tmp_path / "a.png")
    seen = {
        "conversations": [{"from": "human", "value": "<image>\nhello"}, GOOD["conversations"][1]]
    }
    file = released(tmp_path, [GOOD, seen | {"image": "a.png"}])
    folder = convert_demonstrations(file, tmp_path / "out")
    first, second = pq.read_table(folder).to_pylist()
    assert first["messages"][0] == {"role": "user", "content": "hello", "train": False}
    assert first["messages"][1] == {"role": "assistant", "content": "24", "train": True}
    assert (first["images"], first["seed"]) == ([], 0)
    assert second["messages"] == first["messages"]
    assert second["images"] == [(tmp_path / "a.png").read_bytes()]
    assert second["environment"] == str(file)


def test_what_is_no_demonstration_is_not_converted(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"x")
    for record, words in (
        ({"conversations": []}, "conversations: is empty"),
        (GOOD | {"image": "no.png"}, "picture no.png cannot be read"),
        (GOOD | {"image": "bad.png"}, "a picture cannot be read"),
    ):
        with pytest.raises(ConfigError, match=rf"data\.json, row 2: {words}"):
            convert_demonstrations(released(tmp_path, [GOOD, record]), tmp_path / "out")


def test_a_row_that_is_refused_late_leaves_no_part(tmp_path):
    file = released(tmp_path, [GOOD] * 20 + [{"conversations": []}])
    with pytest.raises(ConfigError, match="row 21: conversations: is empty"):
        convert_demonstrations(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert_demonstrations(released(tmp_path, [GOOD] * 21), tmp_path / "out")
    assert pq.read_table(tmp_path / "out").num_rows == 21


def test_a_release_that_is_missing_or_empty_makes_no_folder(tmp_path):
    for file, words in (
        (tmp_path / "no.json", "there is no such file"),
        (released(tmp_path, []), "holds no demonstrations"),
    ):
        with pytest.raises(ConfigError, match=words):
            convert_demonstrations(file, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"holds other files; demonstrations need a folder of"):
        write_demonstrations(GP, BRIEF, 16, 5, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


def test_a_release_is_cut_into_parts(tmp_path):
    file = released(tmp_path, [GOOD] * 33)
    folder = convert_demonstrations(file, tmp_path / "out")
    assert [pq.read_metadata(f).num_rows for f in sorted(folder.glob("*.parquet"))] == [16, 16, 1]
    assert pq.read_table(folder)["seed"].to_pylist() == list(range(33))
