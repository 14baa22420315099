"""Tiny runs: which ones a machine allows, and what their records and last words show."""

import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from cluster.doctor import trials as module
from cluster.doctor.result import Status
from cluster.doctor.trials import (
    BF16,
    ENGINE,
    SLEEP,
    configuration,
    judge,
    last_words,
    missing,
    records,
    run_trials,
    trials,
)
from cluster.placement.layout import weight_channel
from cluster.placement.memory import memory_bytes, tiny_size
from cluster.placement.plan import cpus
from configs.load import load
from tests.cluster.doctor.fakes import cluster, node

ENGINES = {"kind": "placement", "elapsed_s": 1.0}
GAPS = {"mlp": 1e-7, "head": 2e-7}
PROOF = {
    "kind": "sync",
    "elapsed_s": 1.0,
    "check": {k: {"parity_mean_abs": gap, "parity_tokens": 50.0} for k, gap in GAPS.items()},
}
SYNC = {"kind": "sync", "elapsed_s": 1.0, "check": None}
UPDATE = {"kind": "ppo", "elapsed_s": 1.0}


@pytest.mark.parametrize("gpus", [0, 1, 2, 8])
def test_everything_is_shown_once_or_said_to_be_missing(gpus):
    shown = [name for trial in trials(gpus) for name in trial.shows] + [*missing(gpus)]
    known = [ENGINE, SLEEP, BF16, "channel ipc", "channel nccl", "channel object_store"]
    assert sorted(shown) == sorted(known)
    assert set(shown) - {*missing(gpus)} <= {*module.REMEDY}


@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_each_trial_is_a_run_with_what_it_shows(gpus, tmp_path):
    for trial in trials(gpus):
        cfg = configuration(trial, tmp_path)
        channel = weight_channel(cfg, gpu=gpus > 0)
        for name in trial.shows:
            if name.startswith("channel"):
                assert name == f"channel {channel}"
        assert cfg.cluster.weight_proof
        assert (BF16 not in trial.shows) or cfg.model.dtype == "bfloat16"
        assert (SLEEP not in trial.shows) or cfg.cluster.layout == "colocated"
        assert cfg.cluster.root == str(tmp_path)
        assert cfg.cluster.start_deadline_s < module.TRIAL_S
    assert gpus != 1 or all(t.overrides[0] == "cluster.layout=colocated" for t in trials(1))


def judged(recorded, words="", trial=None):
    trial = trial or trials(1)[0]  # engine, channel ipc, bfloat16, sleep and wake
    found = judge(trial, configuration(trial, "/x"), recorded, words)
    return {name: (f.status.value, f.text) for name, f in found}


def test_a_run_that_ended_well_shows_everything():
    found = judged([ENGINES, SYNC, PROOF, SYNC, UPDATE])
    assert {status for status, _ in found.values()} == {"ok"}
    assert "differ by 2e-07 on average (limit 0.05), over 100 tokens" in found["channel ipc"][1]


def test_an_engine_that_does_not_start_is_named_with_its_words():
    found = judged([], "rollout worker 0: vLLM cannot start on /m: no such backend")
    assert found[ENGINE] == ("fault", "rollout worker 0: vLLM cannot start on /m: no such backend")
    assert {found[n] for n in found if n != ENGINE} == {("not applicable", "engine is at fault")}


def test_weights_that_did_not_arrive_are_the_channels_fault():
    found = judged([ENGINES, SYNC], "the proof of mlp weights: log-probabilities differ")
    assert found[ENGINE][0] == "ok"
    assert found["channel ipc"] == ("fault", "the proof of mlp weights: log-probabilities differ")
    assert found[BF16][0] == found[SLEEP][0] == "not applicable"


def test_engines_that_do_not_wake_are_named():
    found = judged([ENGINES, PROOF], "rollout worker 0 did not go to sleep within 120 s")
    assert [found[n][0] for n in (ENGINE, "channel ipc", BF16, SLEEP)] == ["ok"] * 3 + ["fault"]


def test_a_proof_without_tokens_is_at_fault():
    empty = PROOF | {"check": {"mlp": {"parity_mean_abs": 0.0, "parity_tokens": 0.0}}}
    assert judged([ENGINES, empty, UPDATE])["channel ipc"][0] == "fault"


def test_a_run_that_says_nothing_is_at_fault_too():
    assert judged([])[ENGINE] == ("fault", "the trial ended without engine")


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ("whatever", 0, ""),
        ("a\ncardinal: vLLM cannot start\nb\n", 1, "vLLM cannot start"),
        ("Traceback\nKeyError: 1\n\n", 1, "KeyError: 1"),
        ("", 139, "a tiny run ended with code 139"),
    ],
)
def test_the_last_words_of_a_run(said, code, words):
    assert last_words(said, code) == words


def test_records_of_a_run_that_did_not_begin(tmp_path):
    assert records(tmp_path / "none") == []


@pytest.fixture
def ray(monkeypatch):
    class Context:
        gcs_address = "10.0.0.1:6379"

    monkeypatch.setattr(module.ray, "get_runtime_context", Context)


def test_trials_leave_nothing_behind_and_say_what_is_missing(monkeypatch, tmp_path):
    ran = []

    def train(group, root):
        for trial in group:
            ran.append((trial.name, root.parent))
            (root / trial.name).mkdir()
            yield trial, "no engine", 3.0

    monkeypatch.setattr(module, "_train", train)
    made = cluster(node("a"), root=tmp_path / "runs")
    results = {r.check: r for r in run_trials(made)}
    assert {name: r.finding.status.value for name, r in results.items()} == {
        ENGINE: "fault",
        "channel object_store": "not applicable",
        BF16: "fault",
        "channel nccl": "not applicable",
        "channel ipc": "not applicable",
        SLEEP: "not applicable",
    }
    assert results[BF16].seconds == 3.0
    assert ran == [("cpu", tmp_path / "runs"), ("cpu_bfloat16", tmp_path / "runs")]
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_root_where_no_run_can_be_begun_is_at_fault(tmp_path):
    (tmp_path / "file").write_text("")
    (only,) = run_trials(cluster(node("a"), root=tmp_path / "file" / "runs"))
    assert only.check == ENGINE
    assert only.finding.status is Status.FAULT
    assert f"cluster.root={tmp_path / 'file' / 'runs'}: no run can be begun" in only.finding.text


@pytest.fixture
def groups(monkeypatch):
    """The trials that run at the same time, by name."""
    ran = []

    def train(group, root):
        ran.append([trial.name for trial in group])
        return ((trial, "no", 1.0) for trial in group)

    monkeypatch.setattr(module, "_train", train)
    return ran


def test_free_gpus_of_all_nodes_count(groups, tmp_path):
    list(run_trials(cluster(node("a", gpus=1.0), node("b", gpus=1.0), root=tmp_path)))
    assert groups == [["ipc"], ["object_store"], ["nccl"]]


BOTH, IN_TURN = [["cpu", "cpu_bfloat16"]], [["cpu"], ["cpu_bfloat16"]]


@pytest.mark.parametrize(
    ("own", "gpus", "gib", "expected"),
    [
        (True, 0.0, 100, BOTH),
        (True, 0.0, 5, IN_TURN),  # of memory: one fits
        (False, 0.0, 100, IN_TURN),  # others' nodes, which may have no more room
        (True, 1.0, 100, [["ipc"], ["object_store"]]),
    ],
)
def test_trials_share_the_doctors_own_ray(groups, monkeypatch, tmp_path, own, gpus, gib, expected):
    smallest = load("gp_l_debug")
    assert 2.5 < sum(memory_bytes(smallest, tiny_size(smallest)).values()) / 2**30 < 5
    monkeypatch.setattr(module, "available_bytes", lambda: gib * 2**30)
    made = cluster(node("a", gpus=gpus), root=tmp_path)
    list(run_trials(replace(made, subject=replace(made.subject, starts_ray=own))))
    assert groups == expected


def test_its_ray_has_processors_for_both():
    assert module.processors() == 2 * cpus(load("gp_l_debug"))


@pytest.fixture
def programs(monkeypatch, ray):
    """Lines of Python that are run in the places of trials, in turn; and what was started."""
    lines, started = [], []
    real = subprocess.Popen

    def popen(command, **options):
        process = real([sys.executable, "-c", lines[len(started)]], **options)
        started.append((command, options["env"]["RAY_ADDRESS"], process))
        return process

    monkeypatch.setattr(module.subprocess, "Popen", popen)
    return lines, started


HANGS = "import time; time.sleep(600)"


def test_trials_join_this_ray_at_the_same_time_and_each_says_its_own(programs, tmp_path):
    lines, started = programs
    meet = "import pathlib, sys, time; p = pathlib.Path('{}'); p.touch()\n"
    meet += "while not pathlib.Path('{}').exists(): time.sleep(0.01)\n"
    a, b = tmp_path / "a", tmp_path / "b"
    lines += [meet.format(a, b), meet.format(b, a) + "sys.exit('cardinal: no engine')"]
    found = list(module._train(trials(0), tmp_path))
    assert [(trial.name, words) for trial, words, _ in found] == [
        ("cpu", ""),
        ("cpu_bfloat16", "no engine"),
    ]
    assert all(0 < seconds < 60 for *_, seconds in found)
    for (command, address, _), trial in zip(started, trials(0), strict=True):
        assert address == "10.0.0.1:6379"
        assert command[1:5] == ["-m", "cluster.cli", "train", "gp_l_debug"]
        assert command[5:] == module.overrides(trial, tmp_path)


def test_one_that_hangs_is_ended(programs, monkeypatch, tmp_path):
    lines, started = programs
    lines += [HANGS, "pass"]
    monkeypatch.setattr(module, "TRIAL_S", 0.5)
    monkeypatch.setattr(module, "END_S", 300.0)
    found = module._train(trials(0), tmp_path)
    assert next(found)[1] == "a tiny run did not end within 0.5 s"
    (_, _, hung), (_, _, other) = started
    assert hung.returncode == -signal.SIGTERM, "it was told to end, and waited for"
    found.close()
    assert other.poll() is not None


def test_none_goes_on_where_the_doctor_is_left(programs, tmp_path):
    lines, started = programs
    lines += ["pass", HANGS]
    found = module._train(trials(0), tmp_path)
    assert next(found)[1] == ""
    assert started[1][2].poll() is None
    found.close()
    assert started[1][2].returncode == -signal.SIGTERM
