"""Records come back as they were written, after kills and resumes too."""

from __future__ import annotations

import json
import math
import os
import tracemalloc
from errno import ENOSPC
from pathlib import Path
from resource import RLIMIT_FSIZE, getrlimit, setrlimit

import numpy as np
import pytest
import torch

from cluster.checkpoints.cursor import Cursor
from cluster.phases.evaluate import Played
from cluster.phases.evaluate import outcomes as rows_of
from report.metrics import RunLog, append, episodes, outcomes, read
from rollout.episode import EpisodeRequest
from rollout.trajectory_summary import TrajectorySummary


def test_all_that_there_is_goes_to_the_disk(tmp_path: Path, monkeypatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
    )
    log = RunLog(tmp_path)
    log.to_disk()
    log.write("sft", step=1)
    log.to_disk()
    log.outcomes([{"stage": "sft"}])
    log.episode({"stage": "sft"})
    log.to_disk()
    every = ["metrics.jsonl", "episodes.jsonl", "outcomes.jsonl"]
    folder = tmp_path.name  # which says that they are there
    assert synced == [folder, "metrics.jsonl", folder, *every, folder]


def test_records_that_a_resume_keeps_are_on_the_disk_before_it_writes_more(
    tmp_path: Path, monkeypatch
) -> None:
    """They are written again as a whole: a loss of power would leave none of them."""
    with_one = RunLog(tmp_path)
    with_one.write("sft", step=1)
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
    )
    RunLog(tmp_path, keep=lambda record: True)
    assert [name for name in synced if name.startswith("metrics.jsonl")] != []
    assert tmp_path.name in synced


def test_a_record_that_the_disk_has_no_room_for_leaves_none_of_it(tmp_path: Path) -> None:
    """With room again the next one begins a line of its own."""
    log = RunLog(tmp_path)
    log.write("sft", step=1)
    before, (_, most) = (tmp_path / "metrics.jsonl").stat().st_size, getrlimit(RLIMIT_FSIZE)
    setrlimit(RLIMIT_FSIZE, (before + 20, most))
    try:
        with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl") as full:
            log.write("sft", step=2)
    finally:
        setrlimit(RLIMIT_FSIZE, (most, most))
    assert full.value.errno == ENOSPC
    assert (tmp_path / "metrics.jsonl").stat().st_size == before
    log.write("sft", step=3)
    assert [record["step"] for record in read(tmp_path)] == [1, 3]


def test_numbers_of_all_kinds_come_back(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.write(
        "ppo",
        update=np.int64(3),
        loss=torch.tensor(0.5, requires_grad=True),
        reward=np.float32(-1.25),
        success=math.nan,
        grad_norm=math.inf,
        interval=(0.25, np.float64(0.5)),
        check={"mlp": {"kl": torch.tensor([2.0])}},
        cause=None,
    )
    (record,) = read(tmp_path)
    assert record["time"] > 1e9
    assert 0 <= record["elapsed_s"] < 10
    assert {k: v for k, v in record.items() if k not in ("time", "elapsed_s")} == {
        "kind": "ppo",
        "update": 3,
        "loss": 0.5,
        "reward": -1.25,
        "success": None,
        "grad_norm": None,
        "interval": [0.25, 0.5],
        "check": {"mlp": {"kl": [2.0]}},
        "cause": None,
    }


def test_a_record_is_on_disk_when_write_returns(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.write("sft", step=1, loss=2.0)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == 2.0
    log.episode({"stage": "start", "messages": [{"role": "user", "content": "7 7 °"}]})
    assert episodes(tmp_path)[0]["messages"][0]["content"] == "7 7 °"


def test_what_json_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"a record holds .*, a set"):
        RunLog(tmp_path).write("sft", names={"a"})
    assert read(tmp_path) == []


def test_a_half_written_last_line_is_left_out_and_repaired(tmp_path: Path) -> None:
    RunLog(tmp_path).write("sft", step=1)
    file = tmp_path / "metrics.jsonl"
    with file.open("a") as stream:
        stream.write('{"kind": "sft", "st')
    assert [r["step"] for r in read(tmp_path)] == [1]
    RunLog(tmp_path).write("sft", step=2)
    assert [r["step"] for r in read(tmp_path)] == [1, 2]
    assert len(file.read_text().splitlines()) == 2


@pytest.mark.parametrize("rest", ["x", "x" * 1024, "x" * 5000])
@pytest.mark.parametrize("whole", ["", '{"n": 0}\n', '{"n": 0}\n' * 3])
def test_what_is_appended_to_half_a_line_takes_its_place(tmp_path: Path, whole, rest) -> None:
    file = tmp_path / "tracker.jsonl"
    file.write_text(whole + '{"n' + rest)
    append(file, {"n": 1}, {"n": 2})
    append(file, {"n": 3})
    assert file.read_text() == whole + '{"n": 1}\n{"n": 2}\n{"n": 3}\n'


def test_a_resume_holds_one_record_at_a_time(tmp_path: Path) -> None:
    """Not all of a long run's: the outcomes of its evaluations may be larger than memory."""
    log = RunLog(tmp_path)
    for update in range(40):
        log.outcomes([{"update": update, "text": "x" * 10_000} for _ in range(50)])
    log.close()
    tracemalloc.start()
    RunLog(tmp_path, keep=lambda record: record["update"] < 30)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 4e6 < (tmp_path / "outcomes.jsonl").stat().st_size
    assert [r["update"] for r in outcomes(tmp_path)] == sorted([*range(30)] * 50)


def test_a_resume_that_keeps_all_leaves_what_was_played_as_it_is(tmp_path: Path) -> None:
    RunLog(tmp_path).episode({"stage": "start"})
    before = (tmp_path / "episodes.jsonl").stat()
    RunLog(tmp_path)
    assert (tmp_path / "episodes.jsonl").stat() == before


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "sft"}\n{"kind"\n{"kind": "sft"}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2, is not a JSON object"):
        read(tmp_path)


def test_resume_drops_what_is_done_again(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for update in range(1, 6):
        log.write("ppo", update=update, reward=update / 10)
        log.episode({"stage": "ppo", "update": update})
    log.close()

    log = RunLog(tmp_path, keep=lambda record: record["update"] <= 3)
    assert [r["update"] for r in read(tmp_path)] == [1, 2, 3]
    assert [e["update"] for e in episodes(tmp_path)] == [1, 2, 3]
    log.write("ppo", update=4, reward=9.0)
    log.close()
    assert [r["update"] for r in read(tmp_path)] == [1, 2, 3, 4]


def test_keep_sees_an_episode_as_an_evaluation(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.episode({"stage": "start", "update": 0})
    log.episode({"stage": "ppo", "update": 0})
    RunLog(tmp_path, keep=lambda r: r["kind"] == "eval" and r["stage"] == "start")
    assert [e["stage"] for e in episodes(tmp_path)] == ["start"]


def test_elapsed_time_goes_on_after_a_resume(tmp_path: Path) -> None:
    record = {"time": 1.0, "kind": "sft", "elapsed_s": 1000.0, "step": 1}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    RunLog(tmp_path).write("sft", step=2)
    assert 1000 <= read(tmp_path)[-1]["elapsed_s"] < 1010


def test_two_writers_do_not_lose_lines(tmp_path: Path) -> None:
    learner, driver = RunLog(tmp_path), RunLog(tmp_path)
    for step in range(20):
        learner.write("sft", step=step)
        driver.write("restart", who="rank 0", cause="killed")
    assert len(read(tmp_path)) == 40


def test_no_records_no_file(tmp_path: Path) -> None:
    assert read(tmp_path) == []


def test_outcomes_name_each_hand_once_after_a_resume_too(tmp_path: Path) -> None:
    asked = [EpisodeRequest(f"sft/train/{i}", "eval/train", 50 + i, 50 + i) for i in range(3)]
    played = [
        TrajectorySummary(r.id, "solved", "", 5.0, 9, 3, 0, {"success": float(i == 1)})
        for i, r in enumerate(asked)
    ]
    rows = rows_of(Played("greedy", asked, played), "sft", "train")
    assert [(row["seed"], row["success"]) for row in rows] == [(50, 0.0), (51, 1.0), (52, 0.0)]
    for step in (20, 40):
        RunLog(tmp_path).outcomes([{"step": step} | row for row in rows])
    log = RunLog(tmp_path, keep=Cursor("sft", step=20).covers)  # a resume from step 20
    log.outcomes([{"step": 40} | row for row in rows])
    assert [row["step"] for row in outcomes(tmp_path)] == [20] * 3 + [40] * 3
