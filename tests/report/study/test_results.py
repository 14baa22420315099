"""A study's folder is read as far as it goes; what contradicts itself is refused in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from configs.load import ConfigError
from configs.primary import Primary
from report.study.page import write_study_report
from report.study.results import OUTCOMES, is_study, read_study, run_folder, table_rows
from tests.support.example_study import ENDS, VARIANTS, make_study


def test_rows_of_a_whole_study(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, n=50))
    assert is_study(tmp_path)
    names = list(VARIANTS)
    assert (study.inside, study.outside) == (names[:2], names[2:])
    assert [a.kind for a in study.arms] == ["sft", "sft", "rl", "rl_without_sft", "rl_overfit"]
    assert (study.from_scratch, study.missing) == (True, [])
    points = study.at("sft", 1, "train")
    assert [(p.phase, p.step) for p in points][:2] == [("start", 0), ("sft", 100)]
    start = study.start("sft", 0, "train")
    assert start is not None
    assert start.arm == "sft"
    last = study.last("sft_ppo", 2, "all_5")
    assert last is not None
    assert (last.phase, last.step, last.rows) == ("ppo", 20, 50)
    rows = table_rows(study)
    assert len(rows) == 3 * 5 * 5 * 5
    assert all(r["low"] <= r["success"] <= r["high"] for r in rows)


def test_a_pretrained_arm_stands_for_the_initial_model(tmp_path: Path) -> None:
    arms: dict = {
        "pretrain": {},
        "sft": {"from": "pretrain"},
        "sft_ppo": {"from": "sft"},
        "ppo": {"from": "pretrain"},
    }
    study = read_study(
        make_study(tmp_path, arms, n=5, seeds=(0,), ends=ENDS | {"pretrain": (0.2, 0.1)})
    )
    assert [a.kind for a in study.arms] == ["pretrain", "sft", "rl", "rl_without_sft"]
    start = study.start("sft", 0, "train")
    assert start is not None
    assert (start.arm, start.flops) == ("sft", 0.0)


def test_outcomes_are_those_of_the_file(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, n=50))
    lines = (run_folder(tmp_path, "sft", 0) / OUTCOMES).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    mine = {
        r["seed"]: r["success"] > 0 for r in rows if r["step"] == 400 and r["variant"] == "all_5"
    }
    point = next(p for p in study.at("sft", 0, "all_5") if p.step == 400)
    assert {int(q): bool(t.total) for q, t in point.measures["success"].items()} == mine


def test_runs_not_done_yet_are_named(tmp_path: Path) -> None:
    make_study(tmp_path, n=20)
    shutil.rmtree(run_folder(tmp_path, "ppo_only", 1))
    study = read_study(tmp_path)
    assert study.missing == ["ppo_only, seed 1"]
    assert study.last("ppo_only", 1, "train") is None


def test_an_unfinished_run_has_curves_and_no_end(tmp_path: Path) -> None:
    make_study(tmp_path, n=20)
    run = run_folder(tmp_path, "ppo_only", 1)
    (run / "status.json").write_text('{"status": "interrupted", "cause": "Ctrl-C"}')
    study = read_study(tmp_path)
    assert study.missing == ["ppo_only, seed 1"]
    assert len(study.at("ppo_only", 1, "train")) == 5
    assert study.last("ppo_only", 1, "train") is None
    assert [p.seed for p in study.ends("ppo_only", "train")] == [0, 2]


def test_a_run_that_was_evaluated_at_its_start_alone_has_no_end(tmp_path: Path) -> None:
    make_study(tmp_path, n=20, seeds=(0,))
    file = run_folder(tmp_path, "sft", 0) / OUTCOMES
    rows = [line for line in file.read_text().splitlines(keepends=True) if '"start"' in line]
    file.write_text("".join(rows))
    study = read_study(tmp_path)
    assert study.last("sft", 0, "train") is None
    assert study.start("sft", 0, "train") is not None


def test_primary_comparisons_are_read_and_checked(tmp_path: Path) -> None:
    entry = {"arm": "sft_ppo", "against": "start", "variant": "all_5"}
    study = read_study(make_study(tmp_path / "good", n=5, seeds=(0,), primary=[entry]))
    assert study.primary == (Primary("sft_ppo", "start", "all_5", "success"),)
    make_study(tmp_path / "bad", n=5, seeds=(0,), primary=[entry | {"arm": "rl"}])
    with pytest.raises(ConfigError, match=r"primary\[0\].arm=rl: there is no such arm"):
        read_study(tmp_path / "bad")


def test_rows_have_every_decoding(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, {"sft": {}}, n=12, seeds=(0,), samples=4))
    row = table_rows(study)[-1]
    assert (row["decoding"], row["n"], row["questions"]) == ("greedy", 12, 12)
    assert row["pass_at_1"] == pytest.approx(row["sampled"])
    assert row["pass_at_4"] > row["pass_at_1"]
    assert row["pass_at_16"] is None


def test_the_last_evaluation_of_a_phase_says_update_0(tmp_path: Path) -> None:
    make_study(tmp_path, n=20, seeds=(0,))
    run = run_folder(tmp_path, "sft_ppo", 0)
    for name in ("metrics.jsonl", OUTCOMES):
        lines = [
            line if '"kind": "ppo"' in line else line.replace('"update": 20', '"update": 0')
            for line in (run / name).read_text().splitlines(keepends=True)
        ]
        (run / name).write_text("".join(lines))
    points = read_study(tmp_path).at("sft_ppo", 0, "train")
    assert [p.step for p in points] == [0, 5, 10, 15, 20]


def test_failed_episodes_are_no_outcomes(tmp_path: Path) -> None:
    make_study(tmp_path, n=5, seeds=(0,))
    row = {"stage": "start", "variant": "train", "seed": 1, "end": "failed"}
    with (run_folder(tmp_path, "sft", 0) / OUTCOMES).open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    point = read_study(tmp_path).at("sft", 0, "train")[0]
    assert point.rows == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arms": {}}, "arms is missing or empty"),
        ({"arms": {"rl": {"from": "sfd"}}}, "arms.rl.from=sfd is not one of rl"),
        ({"arms": {"a": {"from": "b"}, "b": {"from": "a"}}}, "arms.a begins in a circle"),
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


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    make_study(tmp_path, n=5, seeds=(0,))
    with (run_folder(tmp_path, "sft", 0) / OUTCOMES).open("a") as stream:
        stream.write('{"stage": "sft", "variant": "train", "success": 1.0}\n')
    study = read_study(tmp_path)
    assert "a row has no seed" in study.damaged["sft, seed 0"]
    assert ("sft", 0) not in study.finished


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("status.json", b"", "status.json is not a JSON object"),
        ("status.json", b"[1]", "status.json is not a JSON object: [1]"),
        ("metrics.jsonl", b'{"kind"\n{}\n', "metrics.jsonl, line 1, is not a JSON object"),
        ("metrics.jsonl", b"null\n", "metrics.jsonl, line 1, is not a JSON object: None"),
        ("outcomes.jsonl", b"null\n", "outcomes.jsonl, line 1, is not a JSON object"),
        ("episodes.jsonl", b"null\n", "episodes.jsonl, line 1, is not a JSON object"),
        ("config.yaml", b"name: seed0\n", "config.yaml: model is missing"),
        ("config.yaml", b"a: [", "config.yaml: not YAML"),
        ("config.yaml", b"\x80\x81", "config.yaml: not YAML"),
        ("config.yaml", b"- a", "config.yaml: must hold keys and values"),
    ],
)
def test_a_damaged_run_is_named_and_the_others_are_read(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    make_study(tmp_path, {"ppo": {}}, n=5, seeds=(0, 1), ends=ENDS | {"ppo": (0.2, 0.1)})
    file = run_folder(tmp_path, "ppo", 0) / name
    file.write_bytes(content)
    study = read_study(tmp_path)
    assert words in study.damaged["ppo, seed 0"]
    assert str(file) in study.damaged["ppo, seed 0"]
    assert "\n" not in study.damaged["ppo, seed 0"]
    assert {p.seed for p in study.points} == {1}
    assert study.finished == {("ppo", 1)}
    assert [arm.kind for arm in study.arms] == ["rl_without_sft"]


def test_the_page_says_which_run_was_left_out(tmp_path: Path) -> None:
    make_study(tmp_path, {"ppo": {}}, n=5, seeds=(0, 1), ends=ENDS | {"ppo": (0.2, 0.1)})
    (run_folder(tmp_path, "ppo", 0) / "status.json").write_text("")
    assert "Left out: ppo, seed 0." in write_study_report(tmp_path).read_text("utf-8")


def test_floors_that_cannot_be_read_are_those_of_another_run(tmp_path: Path) -> None:
    make_study(tmp_path, {"sft": {}}, n=5, seeds=(0, 1), samples=1)
    (run_folder(tmp_path, "sft", 0) / "floors.json").write_text("")
    assert "train" in read_study(tmp_path).floors["sft"]


def test_a_study_of_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_bytes(b"\x80\x81")
    with pytest.raises(ConfigError, match=r"study\.yaml: not YAML"):
        read_study(tmp_path)
