"""A running study's table: rows of finished runs, headlined greedily, with what was spent."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from configs.study import Arm, StudyConfig
from report.study.compute import before, until
from report.study.results import run_folder
from report.study.results_table import COLUMNS, write_results
from tests.support.example_study import VARIANTS, make_study

ARMS: dict[str, dict[str, Any]] = {"sft": {}, "sft_ppo": {"from": "sft"}}
EVALUATIONS = 5 * len(VARIANTS)  # of a run: at the start and at four steps


@pytest.fixture
def study(tmp_path: Path) -> StudyConfig:
    make_study(tmp_path / "mine", ARMS, seeds=(0, 1), n=4)
    arms = {"sft": Arm("sft"), "sft_ppo": Arm("sft_ppo", source="sft")}
    return StudyConfig("mine", "gp_l", root=str(tmp_path), seeds=(0, 1), arms=arms)


def rows(study: StudyConfig, statuses: dict[str, str] | None = None) -> list[dict[str, str]]:
    write_results(study, statuses or {})
    with (study.folder / "results.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_row_an_evaluation_with_its_own_figures(study: StudyConfig) -> None:
    found = rows(study, {"sft/seed0": "finished"})
    assert len(found) == 2 * 2 * EVALUATIONS
    assert list(found[0]) == list(COLUMNS)
    ends = json.loads((study.folder / "study.json").read_text())
    assert ends == {"name": "mine", "runs": {"sft/seed0": "finished"}}
    lines = (run_folder(study.folder, "sft_ppo", 1) / "metrics.jsonl").read_text().splitlines()
    records = [record for line in lines if (record := json.loads(line))["kind"] == "eval"]
    mine = [r for r in found if (r["arm"], r["seed"]) == ("sft_ppo", "1")]
    for record, row in zip(records, mine, strict=True):
        assert row["source"] == "sft"
        for key in ("stage", "variant", "step", "update", "success", "n"):
            assert row[key] == str(record[key]), key
        assert (row["low"], row["high"]) == ("0", "1")
        assert row["greedy"] == row["sampled"] == row["pass_at_1"] == ""
    assert {r["source"] for r in found if r["arm"] == "sft"} == {""}


def test_what_was_spent_is_the_runs_own_and_that_of_its_chain(study: StudyConfig) -> None:
    found = rows(study)
    last = [r for r in found if (r["arm"], r["seed"]) == ("sft_ppo", "0")][-1]
    own = until(run_folder(study.folder, "sft_ppo", 0))
    earlier = before(study.folder, {"sft": (None, None), "sft_ppo": ("sft", None)}, "sft_ppo", 0)
    assert float(last["ppo_tokens"]) == own.ppo_tokens > 0
    assert float(last["sft_tokens"]) == 0
    assert float(last["chain_sft_tokens"]) == earlier.sft_tokens > 0
    first = next(r for r in found if (r["arm"], r["seed"]) == ("sft_ppo", "0"))
    assert float(first["ppo_tokens"]) == 0
    assert first["chain_sft_tokens"] == last["chain_sft_tokens"]


def test_runs_that_have_not_finished_have_no_rows(study: StudyConfig) -> None:
    (run_folder(study.folder, "sft_ppo", 0) / "status.json").unlink()
    other = run_folder(study.folder, "sft", 1) / "status.json"
    other.write_text('{"status": "failed", "cause": "lost"}')
    found = {(r["arm"], r["seed"]) for r in rows(study)}
    assert found == {("sft", "0"), ("sft_ppo", "1")}


def test_the_headline_is_greedy_where_there_are_greedy_answers(study: StudyConfig) -> None:
    file = run_folder(study.folder, "sft", 0) / "metrics.jsonl"
    more = {
        "greedy": {"success": 0.75, "n": 8, "interval": [0.4, 0.9]},
        "sampled": {"success": 0.5},
        "pass_at": {"1": 0.5, "4": 0.8},
    }
    lines = [json.loads(line) | more for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (row, *_) = rows(study)
    names = ("success", "n", "low", "high", "greedy", "sampled", "pass_at_1", "pass_at_4")
    assert [row[name] for name in names] == ["0.75", "8", "0.4", "0.9", "0.75", "0.5", "0.5", "0.8"]
    assert row["pass_at_16"] == ""
