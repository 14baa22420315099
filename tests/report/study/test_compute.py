"""Tokens and FLOPs of a chain of runs, counted from records as runs leave them."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from report import flops
from report.study.compute import Spent, along, before, columns, until
from report.study.results import read_study, run_folder
from tests.support.example_study import ENDS, make_study

MATRICES, OUTPUT = 2 * 32 * 128, 64 * 32  # of the example's model
PARAMETERS = MATRICES + OUTPUT
SIZE = flops.Size(MATRICES, OUTPUT, layers=2, width=32)
SFT = 320 * 800.0  # tokens of an SFT arm
UPDATES, PLAYED = 4, 1600.0  # records of a PPO arm, tokens that each of them has played
SOURCES = {"sft": (None, None), "sft_long": ("sft", None), "overfit_ppo": ("sft_long", None)}


def test_tokens_and_flops_by_phase_come_from_records(tmp_path: Path) -> None:
    make_study(tmp_path, n=2, seeds=(0,))
    spent = until(run_folder(tmp_path, "sft", 0))
    assert (spent.sft_tokens, spent.ppo_tokens, spent.played_tokens) == (SFT, 0, 0)
    per_token = 2 * (MATRICES + OUTPUT / 4) + 4 * 2 * 32 * 40  # 40 tokens a demonstration
    assert spent.flops == spent.sft_flops == pytest.approx(3 * per_token * SFT)
    assert spent.formula_flops == pytest.approx(6 * PARAMETERS * SFT)
    spent = until(run_folder(tmp_path, "ppo_only", 0))
    played = PLAYED * UPDATES
    assert (spent.ppo_tokens, spent.played_tokens) == (2 * played, 2 * played)  # two epochs
    assert spent.ppo_flops == pytest.approx(flops.training(SIZE, 2 * played, 50, 0.25))
    assert spent.played_flops == pytest.approx(spent.ppo_flops / 3)
    assert spent.formula_flops == pytest.approx((6 + 2 * 6) * PARAMETERS * 2 * played)


def test_an_arm_carries_what_its_sources_spent_and_a_step_of_them_less(tmp_path: Path) -> None:
    make_study(tmp_path, n=2, seeds=(0,))
    early = before(tmp_path, {"sft": (None, None), "ppo": ("sft", 200)}, "ppo", 0)
    assert early.sft_tokens == 320 * 200
    earlier = before(tmp_path, SOURCES, "overfit_ppo", 0)
    own = until(run_folder(tmp_path, "overfit_ppo", 0))
    row = columns(own, earlier)
    assert (row["sft_tokens"], row["chain_sft_tokens"]) == (0, 2 * SFT)
    assert row["chain_ppo_flops"] == row["ppo_flops"] == own.ppo_flops
    assert row["chain_sft_flops"] == pytest.approx(2 * until(run_folder(tmp_path, "sft", 0)).flops)
    assert row["formula_flops"] == pytest.approx(earlier.formula_flops + own.formula_flops)


def test_every_point_of_a_study_has_both_figures_of_compute(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, n=2, seeds=(0,)))
    of_sft = [p.flops for p in study.at("sft", 0, "train")]
    assert of_sft == pytest.approx([(of_sft[-1] or 0) * part / 8 for part in (0, 1, 2, 4, 8)])
    first, *_, last = study.at("overfit_ppo", 0, "train")
    assert first.flops == pytest.approx(2 * (of_sft[-1] or 0))
    assert first.flops_formula == pytest.approx(6 * PARAMETERS * 2 * SFT)
    learned = 2 * PLAYED * UPDATES
    formula = PARAMETERS * (6 * 2 * SFT + (6 + 12) * learned)
    assert last.flops_formula == pytest.approx(formula)


def test_a_pretrained_model_costs_nothing(tmp_path: Path) -> None:
    arms: dict[str, Any] = {"pretrain": {}, "sft": {"from": "pretrain"}, "ppo": {"from": "sft"}}
    study = read_study(
        make_study(tmp_path, arms, n=2, seeds=(0,), ends=ENDS | {"pretrain": (0.2, 0.1)})
    )
    assert study.at("sft", 0, "train")[0].flops == 0
    assert study.at("ppo", 0, "train")[0].flops_formula == pytest.approx(6 * PARAMETERS * SFT)


def changed(run: Path, settings: dict[str, Any], **record: Any) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    for section, keys in settings.items():
        config[section] |= keys
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    file = run / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    lines = [r | (record if r["kind"] in ("sft", "ppo") else {}) for r in records]
    file.write_text("".join(json.dumps(r) + "\n" for r in lines))


def test_a_reference_policy_reads_too_and_an_update_that_stopped_early_learned_less(
    tmp_path: Path,
) -> None:
    make_study(tmp_path, n=2, seeds=(0,))
    run = run_folder(tmp_path, "ppo_only", 0)
    changed(run, {"ppo": {"kl_coef": 0.1}}, steps=1.0)
    spent = until(run)
    assert (spent.ppo_tokens, spent.played_tokens) == (PLAYED * 2, PLAYED * 3 * UPDATES)
    run = run_folder(tmp_path, "sft", 0)
    changed(run, {"sft": {"loss": "ce_kl"}})
    assert until(run).played_tokens == SFT


def test_what_was_played_and_scored_is_counted_as_an_update_says(tmp_path: Path) -> None:
    """Groups that were passed over were played; a single step scores by its own pass."""
    make_study(tmp_path, n=2, seeds=(0,))
    run = run_folder(tmp_path, "ppo_only", 0)
    learned, before = until(run).ppo_flops, until(run).played_flops
    changed(run, {"ppo": {"kl_coef": 0.1}}, tokens_played=3 * PLAYED)
    assert until(run).played_tokens == (3 + 2) * PLAYED * UPDATES
    changed(run, {}, tokens_scored=0.0)
    spent = until(run)
    assert (spent.played_tokens, spent.ppo_flops) == (3 * PLAYED * UPDATES, learned)
    assert spent.played_flops == pytest.approx(before * 3 / 2)


def test_what_cannot_be_known_is_empty(tmp_path: Path) -> None:
    make_study(tmp_path, n=2, seeds=(0,))
    run = run_folder(tmp_path, "ppo_only", 0)
    changed(run, {"env": {"id": "mine:other/Env-v0"}})
    row = columns(until(run), Spent())
    assert row["formula_flops"] is None  # the paper has no lambda for it
    assert (row["ppo_flops"] or 0) > 0
    shutil.rmtree(run / "model")
    assert math.isnan(until(run).flops)
    assert columns(until(run), Spent())["ppo_flops"] is None
    point = read_study(tmp_path).at("ppo_only", 0, "train")[-1]
    assert (point.flops, point.flops_formula) == (None, None)
    assert list(along(tmp_path / "nothing")) == []
