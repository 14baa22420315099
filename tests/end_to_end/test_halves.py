"""One half alone, with real engines and a real learner: each does what it does in a run."""

import json

import pytest

from report.comparison.losses import update_pairs, verdict
from tests.end_to_end.test_train import cardinal, finish

pytestmark = pytest.mark.slow


def run(*arguments):
    code, out, err = finish(cardinal(*arguments))
    assert code == 0, err[-3000:]
    return out


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    run("train", "gp_l_debug", "name=rec", f"cluster.root={root}", "ppo.record=true")
    return root / "rec"


def test_a_replay_has_the_losses_of_the_run(recorded):
    out = run("replay", recorded)
    pairs = update_pairs(recorded, recorded.with_name("rec-replay"))
    assert [pair.update for pair in pairs] == [1, 2, 3]
    assert all(len(pair.run) == 7 for pair in pairs)
    assert verdict(pairs) == "3 of 3 updates are the run's to the last digit"
    assert verdict(pairs) in out


def test_another_learner_on_the_same_episodes_differs_in_the_second_update(recorded):
    out = run("replay", recorded, "name=slower", "ppo.optimizer.lr=1e-5")
    assert "is the first that differs: " in out


def test_a_learner_trains_on_what_engines_played_without_one(tmp_path):
    blocks = tmp_path / "blocks"
    out = run("rollout", "gp_l_debug", "--out", blocks, "--updates", "2")
    assert [line.split(" in ")[0] for line in out.splitlines() if line.startswith("update")]
    model = f"model.path={blocks / 'model'}"
    settings = [model, "sft.steps=0", f"cluster.root={tmp_path}", f"ppo.blocks={blocks}"]
    run("train", "gp_l_debug", "name=alone", *settings)
    lines = (tmp_path / "alone" / "metrics.jsonl").read_text().splitlines()
    updates = [r for r in map(json.loads, lines) if r["kind"] == "ppo"]
    assert [r["update"] for r in updates] == [1, 2]
    assert updates[0]["parity_tokens"] > 0
    assert updates[0]["parity_mean_abs"] <= 1e-4
    assert [r["staleness_max"] for r in updates] == [0, 1]
