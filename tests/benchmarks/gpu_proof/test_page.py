"""The page, from what CPU runs have recorded; and without a GPU one sentence before anything."""

import json
import subprocess

import pytest

from benchmarks.gpu_proof import __main__ as command
from benchmarks.gpu_proof.page import DOCTOR, MACHINE, write_page
from benchmarks.gpu_proof.runs import RUNS
from configs.load import dump, load
from configs.paths import ROOT


@pytest.fixture
def folder(tmp_path):
    """A proof of one GPU whose offload failed."""
    kinds = {kind: {"parity_mean_abs": 2e-3, "parity_tokens": 40.0} for kind in ("mlp", "head")}
    records = [
        {"kind": "sync", "time": 1.0, "elapsed_s": 1.0, "check": kinds},
        {"kind": "ppo", "time": 2.0, "elapsed_s": 2.0},
    ]
    run = tmp_path / "colocated"
    run.mkdir()
    (run / "config.yaml").write_text(dump(load("gp_l_debug", ["model.dtype=bfloat16"])))
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    made = [
        {"name": "colocated", "command": "train a|b", "seconds": 31.6, "words": ""},
        {"name": "offload", "command": "train o", "seconds": 3.0, "words": "out of memory"},
    ]
    (tmp_path / RUNS).write_text(json.dumps(made))
    (tmp_path / MACHINE).write_text(json.dumps({"gpus": 1, "date": "2026-11-26", "commit": "abc"}))
    checks = [
        ("GPUs", "", "ok", "H100 80 GiB; torch 2", ""),
        ("disk", "2 other nodes", "fault", "is full", "free some"),
    ]
    keys = ("check", "where", "status", "finding", "remedy")
    found = [dict(zip(keys, values, strict=True)) for values in checks]
    (tmp_path / DOCTOR).write_text(json.dumps({"faults": ["disk"], "checks": found}))
    return tmp_path


def test_the_page_answers_each_claim_and_shows_what_was_run(folder):
    text = write_page(folder).read_text()
    assert text.startswith("# Cardinal on 1 GPU, 2026-11-26\n")
    assert "Machine: H100 80 GiB; torch 2; commit abc." in text
    rows = {row.split(" | ")[0]: row for row in text.splitlines() if row.startswith("| ◇")}
    answers = {name: row.split(" | ")[2] for name, row in rows.items()}
    assert answers == {
        "| ◇1": "**not shown**",
        "| ◇2": "**yes**",
        "| ◇3": "**not shown**",
        "| ◇4": "**yes**",
        "| ◇5": "**no**",
        "| ◇6": "**not shown**",
    }
    assert "the run offload failed: out of memory" in rows["| ◇5"]
    assert "differ by 0.002 on average (limit 0.05), over 80 tokens" in rows["| ◇4"]
    assert "| disk (2 other nodes) | fault | is full → free some |" in text
    assert "| colocated | 32 s | ended well | `train a/b` |" in text
    assert "| offload | 3 s | out of memory | `train o` |" in text


def test_the_page_alone_is_written_again(folder, capsys):
    assert command.main(["--page", "--out", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}/page.md\n"


def test_without_a_gpu_nothing_is_begun(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "visible_gpus", lambda: 0)
    assert command.main(["--out", str(tmp_path / "new")]) == 2
    assert "this machine shows no NVIDIA GPU" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_taken_is_refused(folder, monkeypatch, capsys):
    monkeypatch.setattr(command, "visible_gpus", lambda: 1)
    assert command.main(["--out", str(folder)]) == 2
    assert "holds something already; choose a new folder" in capsys.readouterr().err


def test_make_says_so_too_before_it_installs_anything(tmp_path):
    """In a copy of the Makefile alone: nothing else is there to be run."""
    (tmp_path / "Makefile").write_text(
        (ROOT / "Makefile").read_text().replace("/dev/nvidia", "/gone")
    )
    done = subprocess.run(["make", "gpu-proof"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "gpu-proof: this machine has no NVIDIA GPU" in done.stderr
    assert "setup" not in done.stderr
