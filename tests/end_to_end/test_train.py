"""One whole job on the debug configuration, as a user starts it: real Ray, vLLM and DeepSpeed."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from configs.paths import ROOT
from tests.support.seen import check_exported, check_seen

STAGES = ("start", "sft", "ppo")


def cardinal(*arguments, **options):
    """Start the command from a checkout, as `python -m cluster.cli`."""
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process, seconds=400):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def left_behind(run):
    """Processes that name the run folder in their environment or arguments."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CARDINAL_TEST") == str(run):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def marked(run):
    return {**os.environ, "CARDINAL_TEST": str(run)}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """(folder, stdout) of one finished run."""
    root = tmp_path_factory.mktemp("runs")
    run = root / "whole"
    begin = time.monotonic()
    code, out, err = finish(
        cardinal("train", "gp_l_debug", "name=whole", f"cluster.root={root}", env=marked(run))
    )
    assert code == 0, err[-3000:]
    print(f"the job took {time.monotonic() - begin:.0f} s")
    return run, out


def test_the_run_folder_is_complete(job):
    run, _ = job
    for name in (
        "config.yaml",
        "metrics.jsonl",
        "episodes.jsonl",
        "summary.json",
        "report.html",
        "report.png",
        "checkpoints/sft",
        "checkpoints/ppo",
        "tensorboard",
    ):
        assert (run / name).exists(), name
    assert yaml.safe_load((run / "config.yaml").read_text())["ppo"]["updates"] == 3


def test_the_summary_says_what_was_measured(job):
    summary = json.loads((job[0] / "summary.json").read_text())
    assert summary["status"] == "finished"
    for stage in STAGES:
        for variant in ("train", "held_out"):
            found = summary["stages"][stage][variant]
            low, high = found["interval"]
            assert found["n"] == 64
            assert low <= found["success"] <= high
            assert found["first_try"] <= found["success"]
    assert 0 < summary["parity"]["mean_abs"] <= 1e-4
    assert summary["parity"]["kl"] <= 1e-5
    assert summary["seconds"]["sft"] > 0
    assert summary["seconds"]["ppo"] > 0
    assert min(summary["tokens_per_second"].values()) > 0


def test_every_kind_of_weight_was_proven_and_every_sync_checked(job):
    records = [json.loads(line) for line in (job[0] / "metrics.jsonl").open()]
    (proof,) = [r["check"] for r in records if r["kind"] == "sync" and r["check"]]
    assert set(proof) == {"embedding", "attention", "mlp", "norm", "head"}
    updates = [r for r in records if r["kind"] == "ppo"]
    assert [r["version"] for r in updates] == [1, 2, 3]
    assert all(r["parity_tokens"] > 0 and r["parity_mean_abs"] <= 1e-4 for r in updates)
    assert all(r["staleness_max"] == 0 for r in updates)
    stages = [r["stage"] for r in records if r["kind"] == "eval" and "parity_mean_abs" in r]
    assert stages == list(STAGES)


def test_the_checkpoint_loads_in_plain_transformers(job):
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = job[0] / "checkpoints" / "ppo"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "5 5 2 10"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**prompt, max_new_tokens=4)
    assert answer.shape[1] > prompt["input_ids"].shape[1]
    with safe_open(folder / "value_head.safetensors", "pt") as head:
        assert len(list(head.keys())) > 0


def test_its_trace_is_one_and_agrees_with_its_records(job):
    check_seen(job[0])
    check_exported(job[0])


def test_nothing_stays_behind(job):
    assert left_behind(job[0]) == []


def test_a_taken_run_folder_is_refused(job):
    run, _ = job
    code, _, err = finish(
        cardinal("train", "gp_l_debug", "name=whole", f"cluster.root={run.parent}")
    )
    assert code == 2
    assert err.count("\n") == 1
    assert "is taken" in err


def test_a_misspelt_key_is_refused():
    code, _, err = finish(cardinal("train", "gp_l_debug", "ppo.updats=3"))
    assert (code, err) == (
        2,
        "cardinal: ppo.updats: there is no such key; the nearest is updates\n",
    )


def wait_for(run, condition, seconds=240):
    """Until a metrics record fulfils the condition."""
    file, deadline = run / "metrics.jsonl", time.monotonic() + seconds
    while time.monotonic() < deadline:
        if file.is_file():
            lines = [line for line in file.read_text().splitlines() if line.endswith("}")]
            if any(condition(json.loads(line)) for line in lines):
                return
        time.sleep(0.3)
    raise AssertionError("the run did not get there in time")


@pytest.mark.slow
def test_interrupted_and_resumed_it_ends_as_if_nothing_had_been(job, tmp_path):
    """Ctrl-C in SFT, SIGKILL in PPO: one line, no process left, the same losses at the end."""
    whole, _ = job
    run = tmp_path / "whole"
    arguments = (
        "train",
        "gp_l_debug",
        "name=whole",
        f"cluster.root={tmp_path}",
        "learner.checkpoint_every=1",
    )
    first = cardinal(*arguments, env=marked(run), start_new_session=True)
    wait_for(run, lambda r: r["kind"] == "sft" and r["step"] >= 10)
    first.send_signal(signal.SIGINT)
    code, _, err = finish(first, 90)
    assert code == 130
    assert err.strip().splitlines()[-1].startswith("cardinal: interrupted")
    assert left_behind(run) == []

    second = cardinal("resume", run, env=marked(run), start_new_session=True)
    wait_for(run, lambda r: r["kind"] == "ppo" and r["update"] == 2)
    os.killpg(second.pid, signal.SIGKILL)
    second.communicate()
    for _ in range(60):  # Ray's own processes notice the driver's death
        if not left_behind(run):
            break
        time.sleep(1)
    for name in left_behind(run):
        print("still there after SIGKILL:", name)

    third = cardinal("resume", run, env=marked(run))
    code, _, err = finish(third)
    assert code == 0, err[-3000:]

    def losses(folder):
        records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
        return {r["step"]: r["loss"] for r in records if r["kind"] == "sft"}, [
            r["update"] for r in records if r["kind"] == "ppo"
        ]

    assert losses(run)[1] == [1, 2, 3]
    there, here = losses(whole)[0], losses(run)[0]
    assert there.keys() <= here.keys()  # each checkpoint adds a line
    assert all(abs(there[step] - here[step]) < 1e-5 for step in there)


@pytest.mark.slow
def test_two_ranks_with_sharded_weights_do_the_same_job(tmp_path):
    """ZeRO-3 over two ranks: proof, SFT, PPO, export; and the same seed gives the same run."""
    found = []
    for name in ("a", "b"):
        code, _, err = finish(
            cardinal(
                "train",
                "gp_l_debug",
                f"name={name}",
                f"cluster.root={tmp_path}",
                "learner.ranks=2",
                "learner.zero_stage=3",
                "eval.temperature=0",
                "eval.sampled_questions=0",
                "eval.variants.train.verify_iter=1",
            )
        )
        assert code == 0, err[-3000:]
        records = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()]
        found.append(
            {
                "sft": [r["loss"] for r in records if r["kind"] == "sft"],
                "greedy": [
                    (r["stage"], r["variant"], r["success"], r["reward"], r["ends"])
                    for r in records
                    if r["kind"] == "eval" and r["stage"] != "ppo"
                ],
                "hands": [
                    r["seed"] for r in map(json.loads, (tmp_path / name / "episodes.jsonl").open())
                ],
            }
        )
        assert all(r["parity_mean_abs"] <= 1e-4 for r in records if r["kind"] == "ppo")
    assert len(found[0]["sft"]) == 4
    assert found[0] == found[1]
