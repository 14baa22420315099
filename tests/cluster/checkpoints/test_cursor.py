"""The cursor: where a run stands survives a crash, and tells which records lie before it."""

import os
import re

import pytest

from cluster.checkpoints.cursor import (
    Cursor,
    begin_cursor,
    fall_back,
    has_cursor,
    kept_states,
    written_files,
)
from configs.load import ConfigError
from configs.schema import PPOConfig


def test_a_folder_without_one_is_at_the_beginning(tmp_path):
    assert Cursor.load(tmp_path) == Cursor("sft", 0, 0, "")


def test_round_trip_and_only_the_newest_states_are_kept(tmp_path):
    for step in range(1, 5):
        dropped = Cursor("sft", step=step).at(f"sft-{step}").save(tmp_path, keep=2)
        assert dropped == ([f"sft-{step - 2}"] if step > 2 else [])
    assert Cursor.load(tmp_path) == Cursor("sft", 4, 0, "sft-4")
    assert kept_states(tmp_path) == ["sft-3", "sft-4"]
    assert Cursor("ppo").save(tmp_path, keep=2) == []
    assert kept_states(tmp_path) == ["sft-3", "sft-4"]
    assert [file.name for file in (tmp_path / "state").iterdir()] == ["cursor.json"]


def test_a_state_that_cannot_be_read_leaves_the_run_where_the_one_before_it_stands(tmp_path):
    cursors = [Cursor("ppo", update=n, group=9 * n).at(f"ppo-{n}") for n in (1, 2, 3)]
    for cursor in cursors:
        cursor.save(tmp_path, keep=3)
    for _ in range(2):  # as ranks do that have found it at once
        assert fall_back(tmp_path, "ppo-3") == cursors[1]
        assert Cursor.load(tmp_path) == cursors[1]
        assert kept_states(tmp_path) == ["ppo-1", "ppo-2"]
    Cursor("ppo", update=3).at("ppo-3b").save(tmp_path, keep=2)
    assert kept_states(tmp_path) == ["ppo-2", "ppo-3b"]
    assert fall_back(tmp_path, "ppo-3b") == cursors[1]
    assert fall_back(tmp_path, "ppo-2") is None
    assert Cursor.load(tmp_path) == cursors[1]


def test_a_cursor_is_on_the_disk_with_its_folder_once_it_is_saved(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}"))
    )
    Cursor("sft", step=1).at("sft-1").save(tmp_path, keep=1)
    assert re.fullmatch(rf"{tmp_path}/state/cursor\.json\.\w+", synced[0])
    assert synced[1:] == [f"{tmp_path}/state"]


def test_the_state_of_a_cursor_without_a_list_is_kept(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "cursor.json").write_text('{"phase": "sft", "state": "sft-000040"}')
    assert kept_states(tmp_path) == ["sft-000040"]
    assert kept_states(tmp_path / "nowhere") == []


RECORDS = {
    "proof": {"kind": "sync", "version": 0},
    "start": {"kind": "eval", "stage": "start", "update": 0},
    "sft 20": {"kind": "sft", "step": 20},
    "eval at 20": {"kind": "eval", "stage": "sft", "update": 0, "step": 20},
    "sft 21": {"kind": "sft", "step": 21},
    "sft 40": {"kind": "sft", "step": 40},
    "eval at 40": {"kind": "eval", "stage": "sft", "update": 0, "step": 40},
    "after sft": {"kind": "eval", "stage": "sft", "update": 0},
    "ppo 1": {"kind": "ppo", "update": 1},
    "eval 1": {"kind": "eval", "stage": "ppo", "update": 1},
    "sync 2": {"kind": "sync", "version": 2},
    "ppo 2": {"kind": "ppo", "update": 2},
    "end": {"kind": "eval", "stage": "ppo", "update": 0},
}


@pytest.mark.parametrize(
    ("cursor", "last"),
    [
        (Cursor(), None),
        (Cursor("sft", step=20), "eval at 20"),
        (Cursor("ppo"), "after sft"),
        (Cursor("ppo", update=1), "eval 1"),
        (Cursor("done", update=2), "end"),
    ],
)
def test_records_after_the_cursor_are_written_again(cursor, last):
    names = list(RECORDS)
    before = names[: names.index(last) + 1] if last else []
    assert [name for name, record in RECORDS.items() if cursor.covers(record)] == before


@pytest.mark.parametrize(
    ("cursor", "words"),
    [
        (Cursor("ppo"), "begins the phase ppo again: it has no checkpoint yet$"),
        (Cursor("sft", 40, 0, "sft-000040"), "goes on after SFT step 40, the last checkpoint$"),
        (Cursor("ppo", 0, 3, "ppo-000003"), "goes on after PPO update 3, the last checkpoint$"),
        (Cursor("done", 0, 3), "only the run's end"),
    ],
)
def test_where_a_resume_goes_on_is_told(cursor, words):
    assert re.search(words, cursor.resumes())


@pytest.mark.parametrize(
    ("cursor", "group"),
    [
        (Cursor("ppo"), 0),
        (Cursor("ppo", update=2), 2 * 6),
        (Cursor("ppo", update=2, group=15), 15),
        (Cursor("ppo", update=1, group=0), 0),
    ],
)
def test_the_group_that_is_played_first(cursor, group):
    assert cursor.next_group(PPOConfig(episodes=12, group_size=2)) == group


@pytest.mark.parametrize("phase", ["sft", "ppo"])
def test_an_evaluation_that_is_still_due_is_recorded_anew(phase):
    place = {"step": 4} if phase == "sft" else {"update": 4}
    key = next(iter(place))
    records = [{"kind": "eval", "stage": phase, key: number} for number in (3, 4, 5)]
    done, due = Cursor(phase, **place), Cursor(phase, **place, unevaluated=True)
    assert [done.covers(record) for record in records] == [True, True, False]
    assert [due.covers(record) for record in records] == [True, False, False]
    assert due.covers({"kind": phase, key: 4}), "what was trained stays"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"phase": "pp', "is not a JSON object"),
        ("", "is not a JSON object"),
        ('{"phase": "ppo", "state": "../../mine"}', "state='../../mine': must be the name of a"),
        ('{"kept": [{"state": ".."}]}', "state='..': must be the name of a folder"),
        ('{"kept": [{"state": 4}]}', "state=4: must be the name of a folder"),
        ('{"kept": [1]}', "1 under kept: must be an object"),
        ('{"kept": 5}', "5 under kept: must be an object"),
        ('{"phase": "ppo", "laps": 3}', "laps: no field of a cursor; another version"),
        ('{"phase": "ppo", "kept": [{"laps": 3}]}', "laps: no field of a cursor; another version"),
        ('{"phase": "foo"}', "phase='foo': must be sft, ppo or done"),
        ('{"update": "5"}', "update='5': must be a number from 0 on"),
        ('{"step": -1}', "step=-1: must be a number from 0 on"),
        ('{"kept": [{"step": true}]}', "step=True: must be a number from 0 on"),
        ('{"group": 1.5}', "group=1.5: must be a number from 0 on, or null"),
        ('{"unevaluated": 1}', "unevaluated=1: must be true or false"),
        ('{"files": {"a.pt": "7"}}', "must be numbers of bytes by name"),
        ("[" * 100_000, "is not a JSON object"),
    ],
)
def test_a_file_that_is_no_cursor_is_named(tmp_path, content, sentence):
    file = tmp_path / "state" / "cursor.json"
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(ConfigError, match=rf"^{file}.*{sentence}"):
        Cursor.load(tmp_path)


def test_a_run_has_a_cursor_from_its_begin_on(tmp_path):
    assert not has_cursor(tmp_path)
    begin_cursor(tmp_path)
    assert has_cursor(tmp_path)
    assert Cursor.load(tmp_path) == Cursor()
    Cursor("ppo", update=3).at("ppo-000003-ab12", {"a.pt": 7}).save(tmp_path, keep=1)
    begin_cursor(tmp_path)
    assert Cursor.load(tmp_path).place == "PPO update 3"
    assert written_files(tmp_path, "ppo-000003-ab12") == {"a.pt": 7}
    assert written_files(tmp_path, "ppo-000002-ab12") == {}


def test_another_state_has_files_of_its_own():
    first = Cursor("ppo", update=3).at("ppo-000003-ab12", {"a.pt": 7})
    assert first.at("ppo-000003-ab13").files == {}
