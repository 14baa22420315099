"""`python -m benchmarks.gpu_proof`: what it says of the machine."""

import json

import benchmarks.gpu_proof.__main__ as proof
from benchmarks.gpu_proof.page import MACHINE


def test_a_machine_without_git_is_proven_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(proof.sys, "executable", "/bin/true")
    monkeypatch.setattr(proof, "make_all", lambda folder, gpus: ())
    proof._prove(tmp_path / "proof", 1, "2026-11-28")
    assert json.loads((tmp_path / "proof" / MACHINE).read_text())["commit"] == "unknown"
