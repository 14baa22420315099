"""Whole jobs, as a user starts them, on a game of which each stage has its own success.

Real Ray, vLLM and DeepSpeed; on one rank, and on two with engines that play ahead.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from itertools import count, islice, product
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from configs.load import load
from configs.paths import ROOT
from configs.schema import RunConfig
from configs.seeds import update_seeds
from tests.support.capitals import CAPITALS, LETTERS, broken, capital, letters
from tests.support.seen import check_exported, check_seen

STAGES = ("start", "sft", "ppo")
CONFIGURATION = f"""
seed: 3
model: {{init: {{layers: 2, hidden: 64, heads: 2, mlp: 128}}}}
env: {{id: '{CAPITALS}'}}
sft: {{steps: 150, batch_size: 48, demonstrations: 720, optimizer: {{lr: 2e-3}}}}
ppo:
  updates: 7
  episodes: 96
  minibatch: 48
  epochs: 2
  critic_warmup: 0
  clip: 0.3
  kl_coef: 1e-3
  optimizer: {{lr: 1e-3, schedule: linear}}
rollout: {{in_flight: 96, block: 16, answer_tokens: 4, context_tokens: 32, kv_cache_gib: 0.25}}
eval:
  episodes: 48
  sampled_questions: 4
  samples: 4
  variants: {{own: {{}}, next: {{answer: next}}}}
cluster: {{object_store_gib: 0.25, max_failure_rate: 0.5}}
"""


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


def finish(process, seconds=1500):
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


ONE_RANK, TWO_RANKS = "one rank", "two ranks, sharded, playing ahead"
JOBS = {ONE_RANK: (), TWO_RANKS: ("learner.ranks=2", "learner.zero_stage=3", "ppo.max_staleness=1")}
one_rank = pytest.mark.parametrize("job", [ONE_RANK], indirect=True)


class Job(NamedTuple):
    """A finished run: its folder, its configuration and what it recorded."""

    folder: Path
    cfg: RunConfig
    records: list

    def of(self, kind):
        return [record for record in self.records if record["kind"] == kind]

    def success(self, variant):
        """Of the greedy answers, by stage."""
        return {r["stage"]: r["success"] for r in self.of("eval") if r["variant"] == variant}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A function from a name in JOBS to that job, which runs once."""

    @functools.cache
    def run_job(name):
        root = tmp_path_factory.mktemp("runs")
        run, file = root / "whole", root / "capitals.yaml"
        file.write_text(CONFIGURATION)
        arguments = ("train", file, "name=whole", f"cluster.root={root}", *JOBS[name])
        begin = time.monotonic()
        code, _, err = finish(cardinal(*arguments, env=marked(run)))
        assert code == 0, err[-3000:]
        print(f"the job on {name} took {time.monotonic() - begin:.0f} s")
        return Job(run, load(run / "config.yaml"), lines(run / "metrics.jsonl"))

    return run_job


@pytest.fixture(params=JOBS)
def job(request, finished):
    return finished(request.param)


def by_update(seeds, size):
    return [seeds[i : i + size] for i in range(0, len(seeds), size)]


def lines(file):
    return [json.loads(line) for line in file.open()]


def test_each_stage_learns_what_it_is_taught(job):
    """Nothing at first; then what the teacher mostly does; then what is rewarded, and only that."""
    own, following = job.success("own"), job.success("next")
    assert own["start"] <= 0.1 and following["start"] <= 0.1
    assert 0.3 <= own["sft"] <= 0.6 and 0.3 <= following["sft"] <= 0.6
    assert own["ppo"] >= 0.7 and following["ppo"] <= 0.1


def test_two_ranks_take_the_steps_of_one(finished):
    one, two = ([r["loss"] for r in finished(name).of("sft")] for name in JOBS)
    assert two == pytest.approx(one, rel=1e-4)


def test_every_stage_is_evaluated_on_the_same_questions(job):
    """Each episode that breaks is recorded, and is in no denominator."""
    cfg, rows = job.cfg.eval, lines(job.folder / "outcomes.jsonl")
    seeds = range(cfg.seed, cfg.seed + cfg.episodes)
    expected = [("greedy", seed, 0) for seed in seeds]
    expected += [("sampled", s, n) for s in seeds[: cfg.sampled_questions] for n in range(4)]
    for stage, variant in product(STAGES, cfg.variants):
        own = [row for row in rows if (row["stage"], row["variant"]) == (stage, variant)]
        assert [(r["decoding"], r["seed"], r["sample"]) for r in own] == expected
        assert [r["end"] == "failed" for r in own] == [broken(r["seed"]) for r in own]
    for record in job.of("eval"):
        assert record["n"] == sum(not broken(seed) for seed in seeds)
        assert record["ends"]["failed"] == sum(broken(seed) for _, seed, _ in expected)


def test_each_update_trains_on_new_seeds_and_on_whole_episodes(job):
    """In the order of the seeds; an episode that breaks is replaced by the next."""
    ppo, start = job.cfg.ppo, update_seeds(job.cfg, 1).start
    seeds = list(islice((s for s in count(start) if not broken(s)), ppo.updates * ppo.episodes))
    updates = job.of("ppo")
    assert [r["update"] for r in updates] == list(range(1, ppo.updates + 1))
    for record, trained in zip(updates, by_update(seeds, ppo.episodes), strict=True):
        assert record["episodes"] == ppo.episodes
        assert record["turns"] == record["segments"] == 2 * ppo.episodes
        assert record["metric_seed"] == pytest.approx(sum(trained) / len(trained), abs=1e-3)
    assert sum(r["failed"] for r in updates) == seeds[-1] + 1 - start - len(seeds)


def test_ppo_is_held_to_the_policy_that_it_began_with(job):
    """To the initial model the divergence would be 5: about the logarithm of the vocabulary."""
    assert 0 < job.of("ppo")[0]["kl_ref"] < 2


def test_the_run_folder_is_complete(job):
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
        assert (job.folder / name).exists(), name


def test_the_summary_says_what_was_measured(job):
    summary = json.loads((job.folder / "summary.json").read_text())
    assert summary["status"] == "finished"
    for stage, variant in product(STAGES, ("own", "next")):
        measured = summary["stages"][stage][variant]
        low, high = measured["interval"]
        assert low <= measured["success"] <= high
        assert measured["success"] == job.success(variant)[stage]
    assert 0 < summary["parity"]["mean_abs"] <= 1e-4
    assert summary["parity"]["kl"] <= 1e-5
    assert summary["seconds"]["sft"] > 0
    assert summary["seconds"]["ppo"] > 0
    assert min(summary["tokens_per_second"].values()) > 0


def test_every_kind_of_weight_was_proven_and_every_sync_checked(job):
    (proof,) = [r["check"] for r in job.of("sync") if r["check"]]
    assert set(proof) == {"embedding", "attention", "mlp", "norm", "head"}
    updates, bound = job.of("ppo"), job.cfg.ppo.max_staleness
    assert [r["version"] for r in updates] == list(range(1, job.cfg.ppo.updates + 1))
    assert all((r["parity_mean_abs"] or 0.0) <= 1e-4 for r in updates)
    assert all(len(r["staleness"]) == bound + 1 for r in updates)
    assert all(r["staleness_max"] <= bound for r in updates)
    if bound == 0:
        assert all(r["parity_tokens"] == r["action_tokens"] for r in updates)
        assert {r["parity_worst_engine"] for r in updates} == {0.0}
    else:
        assert max(r["staleness_max"] for r in updates) == 1
    stages = [r["stage"] for r in job.of("eval") if "parity_mean_abs" in r]
    assert stages == list(STAGES)


def test_the_checkpoints_are_the_policies_that_were_evaluated(job):
    """In plain transformers they answer as well, letter by letter."""
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoints, evaluation = job.folder / "checkpoints", job.cfg.eval
    seeds = range(evaluation.seed, evaluation.seed + evaluation.episodes)
    for stage in ("sft", "ppo"):
        tokenizer = AutoTokenizer.from_pretrained(checkpoints / stage)
        model = AutoModelForCausalLM.from_pretrained(checkpoints / stage)
        right = []
        for number, letter in enumerate(LETTERS):
            prompt = tokenizer.apply_chat_template(
                [{"role": "user", "content": letter}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )
            answer = model.generate(**prompt, max_new_tokens=4, do_sample=False)
            sampled = answer[0, prompt["input_ids"].shape[1] :]
            text = tokenizer.decode(sampled, skip_special_tokens=True)
            right.append(text == capital(number))
        success = [all(right[n] for n in letters(seed)) for seed in seeds if not broken(seed)]
        assert job.success("own")[stage] == pytest.approx(sum(success) / len(success))
    with safe_open(checkpoints / "ppo" / "value_head.safetensors", "pt") as head:
        assert len(list(head.keys())) > 0


def test_its_trace_is_one_and_agrees_with_its_records(job):
    check_seen(job.folder)
    check_exported(job.folder)


def test_nothing_stays_behind(job):
    assert left_behind(job.folder) == []


@one_rank
def test_a_taken_run_folder_is_refused(job):
    root = job.folder.parent
    code, _, err = finish(
        cardinal("train", root / "capitals.yaml", "name=whole", f"cluster.root={root}")
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


def wait_for(run, condition, seconds=900):
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
@one_rank
def test_interrupted_and_resumed_it_ends_as_if_nothing_had_been(job, tmp_path):
    """Ctrl-C in SFT, SIGKILL in PPO: one line, no process left, the same losses at the end."""
    run = tmp_path / "whole"
    arguments = (
        "train",
        job.folder.parent / "capitals.yaml",
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

    assert losses(run)[1] == list(range(1, job.cfg.ppo.updates + 1))
    there, here = losses(job.folder)[0], losses(run)[0]
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
