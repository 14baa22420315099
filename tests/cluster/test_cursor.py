"""The cursor: where a run stands survives a crash, and tells which records lie before it."""

import re

import pytest

from cluster.cursor import Cursor


def test_a_folder_without_one_is_at_the_beginning(tmp_path):
    assert Cursor.load(tmp_path) == Cursor("sft", 0, 0, "")


def test_round_trip_and_only_the_newest_states_are_kept(tmp_path):
    for step in range(1, 5):
        (tmp_path / "state" / f"sft-{step:06d}").mkdir(parents=True)
        Cursor("sft", step=step).at(f"sft-{step:06d}").save(tmp_path, keep=2)
    assert Cursor.load(tmp_path) == Cursor("sft", 4, 0, "sft-000004")
    assert sorted(p.name for p in (tmp_path / "state").iterdir() if p.is_dir()) == [
        "sft-000003",
        "sft-000004",
    ]


RECORDS = {
    "proof": {"kind": "sync", "version": 0},
    "start": {"kind": "eval", "stage": "start", "update": 0},
    "sft 20": {"kind": "sft", "step": 20},
    "eval at 20": {"kind": "eval", "stage": "sft", "update": 0, "step": 20},
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
    ("cursor", "every", "words"),
    [
        (Cursor(), 0, "begins the phase sft again: .*checkpoint_every=0, which keeps none within"),
        (Cursor("ppo"), 0, "begins the phase ppo again: it has no checkpoint yet"),
        (Cursor("sft"), 50, r"no checkpoint yet \(learner.checkpoint_every=50\)$"),
        (Cursor("sft", 40, 0, "sft-000040"), 20, "goes on after SFT step 40, the last checkpoint$"),
        (Cursor("ppo", 0, 3, "ppo-000003"), 1, "goes on after PPO update 3, the last checkpoint$"),
        (Cursor("done", 0, 3), 1, "only the run's end"),
    ],
)
def test_where_a_resume_goes_on_is_told(cursor, every, words):
    assert re.search(words, cursor.resumes(every))
