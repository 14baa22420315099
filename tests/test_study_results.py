"""A study's folder is read as far as it goes; what contradicts itself is refused in a sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from cluster.study_results import OUTCOMES, is_study, read_study, run_folder, table_rows
from configs.load import ConfigError
from tests.example_study import VARIANTS, make_study


def test_rows_of_a_whole_study(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, n=50))
    assert is_study(tmp_path)
    assert (study.inside, study.outside) == (list(VARIANTS[:2]), list(VARIANTS[2:]))
    assert [a.kind for a in study.arms] == ["start", "sft", "rl", "rl_without_sft", "rl_overfit"]
    assert (study.parameters, study.from_scratch, study.missing) == (1_234_567, True, [])
    points = study.at("sft", 1, "train")
    assert [(p.phase, p.step) for p in points][:2] == [("start", 0), ("sft", 100)]
    assert [p.flops for p in points] == [0.0, 0.75e14, 1.5e14, 2.25e14, 3e14]
    last = study.last("sft_ppo", 2, "all_5")
    assert last is not None
    assert (last.phase, last.step, len(last.outcomes)) == ("ppo", 20, 50)
    rows = table_rows(study)
    assert len(rows) == 3 * 5 * (1 + 5 + 5 + 5 + 5)
    assert all(r["low"] <= r["success"] <= r["high"] for r in rows)


def test_outcomes_are_those_of_the_file(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, n=50))
    rows = pq.read_table(run_folder(tmp_path, "sft", 0) / OUTCOMES).to_pylist()
    mine = {r["seed"]: r["success"] for r in rows if r["step"] == 400 and r["variant"] == "all_5"}
    point = next(p for p in study.at("sft", 0, "all_5") if p.step == 400)
    assert point.outcomes == mine


def test_runs_not_done_yet_are_named(tmp_path: Path) -> None:
    make_study(tmp_path, n=20)
    shutil.rmtree(run_folder(tmp_path, "ppo_only", 1))
    study = read_study(tmp_path)
    assert study.missing == ["ppo_only, seed 1"]
    assert study.last("ppo_only", 1, "train") is None


def test_the_last_evaluation_of_a_phase_says_update_0(tmp_path: Path) -> None:
    make_study(tmp_path, n=20, seeds=(0,))
    file = run_folder(tmp_path, "sft_ppo", 0) / "metrics.jsonl"
    text = file.read_text().replace('"stage": "ppo", "update": 20', '"stage": "ppo", "update": 0')
    file.write_text('{"kind": "ppo", "update": 20, "elapsed_s": 1}\n' + text)
    last = read_study(tmp_path).last("sft_ppo", 0, "train")
    assert last is not None
    assert last.flops == 12e14


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arms": {}}, "arms is missing or empty"),
        ({"arms": {"odd": {"kind": "other"}}}, "arms.odd.kind=other is not one of start, sft"),
        ({"arms": {"rl": {"from": "sfd"}}}, "arms.rl.from=sfd is not one of rl"),
        ({"in_distribution": ["trian"]}, "in_distribution=trian is not one of"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, change: dict, words: str) -> None:
    make_study(tmp_path, n=5, seeds=(0,))
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | change))
    with pytest.raises(ConfigError, match=words):
        read_study(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no study"):
        read_study(tmp_path)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    make_study(tmp_path, n=5, seeds=(0,))
    file = run_folder(tmp_path, "sft", 0) / OUTCOMES
    pq.write_table(pq.read_table(file).drop_columns(["seed"]), file)
    with pytest.raises(ConfigError, match="has no column seed"):
        read_study(tmp_path)
