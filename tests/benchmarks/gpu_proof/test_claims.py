"""Each ◇ of docs/gpu.md has a run that shows it, and is answered by what that run has left."""

import re

import pytest

from benchmarks.gpu_proof.claims import SHOWN_BY, Run, answer, read_claims
from benchmarks.gpu_proof.runs import planned
from configs.load import load
from configs.paths import ROOT

PAGE = (ROOT / "docs" / "gpu.md").read_text()
CFG = load("gp_l_debug", ["model.dtype=bfloat16"])
PROOF = {
    "kind": "sync",
    "time": 1.0,
    "check": {kind: {"parity_mean_abs": 3e-3, "parity_tokens": 50.0} for kind in ("mlp", "head")},
}
SYNC = {"kind": "sync", "time": 1.0, "check": None}
UPDATE = {"kind": "ppo", "time": 2.0}
RESTART = {"kind": "restart", "time": 3.0, "who": "learner"}


def run(name, *records, words=""):
    return {name: Run(name, f"train {name}", 9.0, words, CFG, records)}


def test_no_claim_of_the_page_is_forgotten():
    assert sorted(read_claims(PAGE)) == sorted(SHOWN_BY)
    assert len(read_claims(PAGE)) == len(set(read_claims(PAGE)))


def test_every_mark_of_the_page_but_those_that_explain_it_has_a_number():
    """A ◇ without one would be in no list."""
    sections = PAGE.split("\n## ")
    explaining = [sections[0], *(s for s in sections if s.startswith("The proof"))]
    without = [
        s.split("\n")[0] for s in sections if re.search(r"◇(?!\d)", s) and s not in explaining
    ]
    assert without == []


@pytest.mark.parametrize("number", SHOWN_BY)
def test_what_shows_a_claim_is_run_on_as_many_gpus_as_it_takes(number):
    evidence = SHOWN_BY[number]
    names = {plan.name for plan in planned(evidence.gpus)} | set(["restart"] * (evidence.gpus > 1))
    assert evidence.run in names


@pytest.mark.parametrize(
    ("number", "gpus", "runs", "given", "words"),
    [
        (1, 1, {}, "not shown", "it takes 2 GPUs, and this machine has 1"),
        (2, 1, {}, "not shown", "the run colocated was not made"),
        (2, 1, run("colocated", words="vLLM cannot start"), "no", "failed: vLLM cannot start"),
        (2, 1, run("colocated"), "no", "ended without an update"),
        (2, 1, run("colocated", UPDATE), "yes", "trained for 1 PPO update"),
        (1, 2, run("gp_l", UPDATE, UPDATE), "yes", "trained for 2 PPO updates"),
        (4, 1, run("colocated", SYNC, UPDATE), "no", "has no proof of its weights"),
        (4, 1, run("colocated", PROOF, UPDATE), "yes", "differ by 0.003 on average (limit 0.05)"),
        (3, 2, run("gp_l", PROOF, UPDATE), "yes", "over 100 tokens"),
        (5, 1, run("offload", PROOF, UPDATE), "yes", "trained for 1 PPO update; log-prob"),
        (6, 2, run("restart", UPDATE), "no", "no update of restart came after"),
        (6, 2, run("restart", UPDATE, RESTART), "no", "no update of restart came after"),
        (6, 2, run("restart", UPDATE, RESTART, UPDATE | {"time": 4.0}), "yes", "for 2 PPO updates"),
    ],
)
def test_answers(number, gpus, runs, given, words):
    found = answer(number, gpus, runs)
    assert found.answer == given
    assert words in found.evidence


def test_a_proof_without_tokens_proves_nothing():
    empty = {"mlp": {"parity_mean_abs": 0.0, "parity_tokens": 0.0}}
    found = answer(4, 1, run("colocated", PROOF | {"check": empty}, UPDATE))
    assert found.answer == "no"
