"""Demonstrations that changed between a run and its resume are named."""

import json

import pytest

from cluster.checkpoints.cursor import Cursor
from cluster.demonstrations import fingerprint as data_fingerprint
from cluster.demonstrations.fingerprint import (
    PIECE,
    check_unchanged,
    fingerprint,
    record_data,
    unread_data,
)
from configs.load import ConfigError, load


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"a": 1}\n')
    (folder / "b.jsonl").write_text('{"b": 1}\n')
    return folder


@pytest.fixture
def run(tmp_path):
    """A run folder with a checkpoint."""
    folder = tmp_path / "run"
    folder.mkdir()
    Cursor("sft", state="first").save(folder / "checkpoints", keep=1)
    return folder


def refused(data, run, sentence):
    for call in (check_unchanged, record_data):
        with pytest.raises(ConfigError) as error:
            call(str(data), run)
        assert str(error.value).startswith(f"sft.data={data}: {sentence}; a resume goes on with")


def test_what_stays_as_it_was_is_no_obstacle(data, run):
    check_unchanged(str(data), run)
    record_data(str(data), run)
    written = (run / "data.json").read_text()
    assert json.loads(written).keys() == {"a.jsonl", "b.jsonl"}
    (data / "README.md").write_text("not read")
    (data / "a.jsonl").touch()
    record_data(str(data), run)
    check_unchanged(str(data), run)
    assert (run / "data.json").read_text() == written
    assert {file.name for file in run.iterdir()} == {"data.json", "checkpoints"}


def test_a_run_without_a_checkpoint_begins_again_with_other_data(data, tmp_path, capsys):
    record_data(str(data), tmp_path)
    (data / "b.jsonl").write_text('{"b": 22}\n')
    check_unchanged(str(data), tmp_path)
    record_data(str(data), tmp_path)
    assert capsys.readouterr().err.startswith(f"sft.data={data}: has changed since the run began")
    assert json.loads((tmp_path / "data.json").read_text()) == fingerprint(str(data))
    record_data(str(data), tmp_path)
    assert capsys.readouterr().err == ""
    Cursor("sft", step=1).save(tmp_path / "checkpoints", keep=1)  # trained, without a state
    (data / "b.jsonl").write_text("")
    refused(data, tmp_path, "b.jsonl had 10 bytes when the run began, and has 0")


def test_pictures_that_rows_name_are_data_too(data, run, tmp_path):
    asked, answered = {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}
    (data / "shown").mkdir()
    names = ["shown/0.png", str(tmp_path / "1.png"), "shown/absent.png"]
    for number, name in enumerate(names[:2]):
        (data / name).write_bytes(bytes([number]))
    lines = [
        {"messages": [asked, answered], "images": names[:1]},
        {"messages": [asked, answered], "image": {"path": names[1]}},
        {"messages": [asked, answered], "images": names[2:]},
        {"messages": "which whoever renders it names", "images": ["shown/0.png"]},
    ]
    (data / "a.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    record_data(str(data), run)
    assert json.loads((run / "data.json").read_text()).keys() == {"a.jsonl", "b.jsonl", *names[:2]}
    check_unchanged(str(data), run)
    (data / names[0]).write_bytes(b"!")
    refused(
        data, run, f"{names[0]} has other content than when the run began, in as many bytes (1)"
    )
    (data / names[0]).unlink()
    refused(data, run, f"{names[0]} was there when the run began, and is gone")
    (data / names[0]).write_bytes(b"\0")
    (data / names[2]).write_bytes(b"new")
    refused(data, run, f"{names[2]} was not there when the run began")


def test_the_first_file_that_is_another_is_named(data, run):
    record_data(str(data), run)
    (data / "b.jsonl").write_text('{"b": 2}\n')
    same = "b.jsonl has other content than when the run began, in as many bytes (9)"
    refused(data, run, same)
    (data / "a.jsonl").write_text("")
    refused(data, run, "a.jsonl had 9 bytes when the run began, and has 0")
    (data / "a.jsonl").unlink()
    refused(data, run, "a.jsonl was there when the run began, and is gone")
    (data / "_a.jsonl").touch()
    (data / "0.jsonl").touch()
    refused(data, run, "0.jsonl was not there when the run began")


def test_one_file_is_compared_too(data, run):
    file = data / "a.jsonl"
    record_data(str(file), run)
    file.write_text("[]")
    refused(file, run, "a.jsonl had 9 bytes when the run began, and has 2")
    file.unlink()
    with pytest.raises(ConfigError, match=rf"^sft.data={file}: there is no such file or folder$"):
        check_unchanged(str(file), run)


def test_data_are_read_until_sft_has_ended(run):
    cfg = load("gp_l_debug", ["sft.data=/mine"])
    assert unread_data(cfg, run) == "/mine"
    assert unread_data(load("gp_l_debug"), run) is None
    assert unread_data(load("gp_l_debug", ["sft.data=/mine", "sft.steps=0"]), run) is None
    Cursor("sft", step=3).save(run / "checkpoints", keep=1)
    assert unread_data(cfg, run) == "/mine"
    Cursor("ppo").save(run / "checkpoints", keep=1)
    assert unread_data(cfg, run) is None


@pytest.mark.parametrize("place", [0, 7 * PIECE + 5, 10 * PIECE - 1])
def test_a_file_is_read_whole_where_it_is_small(data, place):
    content = bytearray(10 * PIECE)
    (data / "a.jsonl").write_bytes(content)
    before = fingerprint(str(data))
    content[place] = 1
    (data / "a.jsonl").write_bytes(content)
    now = fingerprint(str(data))
    assert now["a.jsonl"] != before["a.jsonl"]
    assert now["b.jsonl"] == before["b.jsonl"]


def test_of_large_files_pieces_are_read_the_first_and_the_last_among_them(data, monkeypatch):
    monkeypatch.setattr(data_fingerprint, "PIECES", 6)  # of two files
    size = 100 * PIECE + 7
    starts = data_fingerprint._starts(size, 3)
    assert starts == [0, (size - PIECE) // 2, size - PIECE]
    content = bytearray(size)
    (data / "a.jsonl").write_bytes(content)
    before = fingerprint(str(data))["a.jsonl"]
    seen = []
    for place in (0, size // 2, size - 1, 20 * PIECE):
        content[place] = 1
        (data / "a.jsonl").write_bytes(content)
        seen.append(fingerprint(str(data))["a.jsonl"] != before)
        content[place] = 0
    assert seen == [True, True, True, False]  # what lies between the pieces is not seen
    monkeypatch.setattr(data_fingerprint, "PIECES", 1)
    assert fingerprint(str(data))["a.jsonl"][0] == size  # of many files two pieces each
