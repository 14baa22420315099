"""`summary.json` of complete and broken-off runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from report.metrics import RunLog
from report.summary import parameters, seconds, spans, stages, summarise_run
from tests.support.example_run import VARIANTS, N, make_run


def phase(name: str, event: str, at: float) -> dict[str, Any]:
    return {"kind": "phase", "phase": name, "event": event, "elapsed_s": at, "time": at}


def test_the_newest_record_of_sft_says_how_often_demonstrations_were_seen(tmp_path: Path) -> None:
    found = summarise_run(make_run(tmp_path, tries=1))
    assert found["sft"] == {
        "demonstrations": 48_000,
        "dropped": 0,
        "epoch": 2000 * 64 / 48_000,
    }


def test_a_finished_run(tmp_path: Path) -> None:
    found = summarise_run(make_run(tmp_path))
    assert (found["name"], found["seed"], found["status"]) == ("demo", 3, "finished")
    assert list(found["stages"]) == ["start", "sft", "ppo"]
    for stage in found["stages"].values():
        assert tuple(stage) == VARIANTS
    last = found["stages"]["ppo"]["train"]
    assert last["n"] == N
    assert last["success"] == pytest.approx(287 / N)  # of the last evaluation, not of update 20
    assert last["interval"][0] < last["success"] < last["interval"][1]
    assert last["metrics"]["legal"] == 0.97
    assert last["first_try"] == pytest.approx(0.6 * 287 / N)
    assert found["sft"] is None  # as older runs have it
    assert found["parity"] == {"mean_abs": pytest.approx(5e-6), "kl": 3e-11, "syncs": 1}
    assert found["model"]["parameters"] == 60 * 128 + 1000
    assert found["tokens_per_second"]["rollout"] == pytest.approx(5200)
    assert 6800 < found["tokens_per_second"]["sft"] < 7200
    assert [r["who"] for r in found["incidents"]] == ["rollout worker 0"]


def test_seconds_are_counted_once(tmp_path: Path) -> None:
    found = summarise_run(make_run(tmp_path))
    assert found["seconds"]["sft"] == pytest.approx(100 * 1.7 + 0.1)
    # 40 updates, the restart and the phase's end; two evaluations inside count for themselves.
    assert found["seconds"]["ppo"] == pytest.approx(40 * 4.4 + 2 + 0.1 + 2 * 0.5)
    assert found["seconds"]["eval ppo"] == pytest.approx(3 * (3 * 4.1 + 0.1))
    assert sum(found["seconds"].values()) < found["elapsed_s"]


@pytest.mark.parametrize(
    ("upto", "status", "stages", "ended"),
    [
        ("start", "failed", ["start"], "failed"),
        ("sft", "interrupted", ["start", "sft"], "interrupted"),
        ("ppo-part", None, ["start", "sft", "ppo"], "interrupted"),
    ],
)
def test_a_run_broken_off(
    tmp_path: Path, upto: str, status: str | None, stages: list[str], ended: str
) -> None:
    found = summarise_run(make_run(tmp_path, upto, status))
    assert list(found["stages"]) == stages
    assert found["status"] == ended
    if upto == "ppo-part":
        assert found["stages"]["ppo"]["train"]["update"] == 10
        assert found["seconds"]["ppo"] > 50  # up to the last record


def test_an_empty_folder(tmp_path: Path) -> None:
    found = summarise_run(tmp_path)
    assert found["stages"] == {}
    assert found["sft"] is None
    assert found["parity"] == {"mean_abs": None, "kl": None, "syncs": 0}
    assert found["elapsed_s"] == 0
    assert found["name"] == tmp_path.name


def test_a_killed_phase_ends_where_it_begins_again() -> None:
    records = [
        phase("sft", "begin", 0),
        phase("sft", "end", 10),
        phase("ppo", "begin", 10),
        phase("eval ppo", "begin", 14),
        {"kind": "eval", "elapsed_s": 15.0},
        phase("ppo", "begin", 20),
        phase("ppo", "end", 26),
        phase("eval ppo", "begin", 27),
        phase("eval ppo", "end", 30),
    ]
    shown = [(s.name, s.begin, s.end, s.depth) for s in spans(records)]
    assert shown == [
        ("sft", 0, 10, 0),
        ("ppo", 10, 15.0, 0),
        ("eval ppo", 14, 15.0, 1),
        ("ppo", 20, 26, 0),
        ("eval ppo", 27, 30, 0),
    ]
    assert seconds(spans(records)) == {"sft": 10, "ppo": 4 + 6, "eval ppo": 1 + 3}


def test_only_phases_that_can_hold_others_do() -> None:
    records = [
        phase("eval start", "begin", 0),
        {"kind": "eval", "elapsed_s": 3.0},
        phase("proof", "begin", 9),
        phase("proof", "end", 11),
    ]
    shown = [(s.name, s.begin, s.end, s.depth) for s in spans(records)]
    assert shown == [("eval start", 0, 3.0, 0), ("proof", 9, 11, 0)]


def test_speed_is_tokens_by_time_not_a_mean_of_rates(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for rate, took in ((100.0, 9.0), (1000.0, 1.0)):
        log.write("ppo", update=1, rollout_tokens_per_second=rate, busy_seconds=took)
    for rate, tokens in ((100.0, 900), (1000.0, 1000)):
        log.write("sft", step=1, tokens_per_second=rate, tokens_trained=tokens)
    found = summarise_run(tmp_path)["tokens_per_second"]
    assert found == {"rollout": pytest.approx(190), "sft": pytest.approx(190)}


def test_parity_is_the_largest_of_updates_evaluations_and_proofs(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.write("ppo", update=1, parity_mean_abs=1e-6, parity_kl=-4e-9)
    log.write("eval", stage="sft", variant="train", parity_mean_abs=3e-6, parity_kl=1e-9)
    log.write("sync", version=0, check={"head": {"parity_mean_abs": 2e-6, "parity_kl": 2e-9}})
    assert summarise_run(tmp_path)["parity"] == {"mean_abs": 3e-6, "kl": 4e-9, "syncs": 0}


def test_parameters_of_all_shards_without_the_value_head(tmp_path: Path) -> None:
    assert parameters(tmp_path) is None
    for name, size in (("model-1", 10), ("model-2", 5), ("value_head", 7)):
        save_file({"w": np.zeros((size, 2), np.float16)}, str(tmp_path / f"{name}.safetensors"))
    assert parameters(tmp_path) == 30


def test_stages_keep_the_order_of_a_run() -> None:
    records = [
        {"kind": "eval", "stage": stage, "variant": "a", "success": 0.5, "elapsed_s": 1, "time": 1}
        for stage in ("ppo", "start", "sft")
    ]
    assert list(stages(records)) == ["start", "sft", "ppo"]
    assert stages(records)["sft"] == {"a": {"success": 0.5}}
