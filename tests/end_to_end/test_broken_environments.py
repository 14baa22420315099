"""PPO from a model folder on eight broken environments: real Ray, vLLM and DeepSpeed.

The run ends well, each failure is its episode's with its cause, and the others take no longer.
"""

import json
import statistics

import pytest

from tests.end_to_end.test_train import cardinal, finish, left_behind, marked
from tests.support.plugins import EIGHT, MIXED, PLUGIN, TURNS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
DEADLINE_S = 6
CAUSES = {
    "hanging": f"environment step: took longer than cluster.env_deadline_s = {DEADLINE_S}",
    "segfault": "environment step: its process was ended by SIGSEGV",
    "nan": "environment step: the reward is nan; it must be a finite number",
    "huge": "environment step: the observation's message has 10000000 characters; it may have",
    "picture": "environment step: the picture is float64 [8, 8, 3]; it must be uint8",
    "leak": "environment step: its process needed more than env.memory_gib = 0.5",
}
CONFIGURATION = f"""
model: {{path: MODEL}}
env: {{id: '{PLUGIN}', settings: {{kind: mixed}}, memory_gib: 0.5}}
ppo: {{updates: 3, episodes: 32, minibatch: 16, epochs: 1, critic_warmup: 0}}
rollout:
  in_flight: 16
  block: 16
  max_turns: 12
  answer_tokens: 12
  context_tokens: 128
  kv_cache_gib: 0.25
eval:
  variants: {{alone: {{kind: good}}, together: {{}}}}
  episodes: 32
  sampled_questions: 4
  samples: 2
  every: 1
cluster:
  env_deadline_s: {DEADLINE_S}
  max_failure_rate: 0.9
  object_store_gib: 0.25
"""


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    """The folder of a run that has ended."""
    root = tmp_path_factory.mktemp("broken")
    file = root / "broken.yaml"
    file.write_text(CONFIGURATION.replace("MODEL", tiny_model))
    code, out, err = finish(
        cardinal("train", file, "name=run", f"cluster.root={root}", env=marked(root / "run")), 1000
    )
    assert code == 0, f"{out[-2000:]}\n{err[-3000:]}"
    return root / "run"


def lines(file):
    return [json.loads(line) for line in file.open()]


def kind(row):
    return MIXED[row["seed"] % len(MIXED)] if row["variant"] == "together" else "good"


def test_the_run_ends_well_and_learns_from_what_did_not_fail(run):
    assert json.loads((run / "status.json").read_text())["status"] == "finished"
    assert (run / "checkpoints" / "ppo" / "model.safetensors").is_file()
    updates = [r for r in lines(run / "metrics.jsonl") if r["kind"] == "ppo"]
    assert [r["update"] for r in updates] == [1, 2, 3]
    assert [r["episodes"] for r in updates] == [32] * 3  # others are played for those that fail
    assert all(r["failed"] >= 32 * len(CAUSES) // len(MIXED) for r in updates)
    assert all(r["parity_tokens"] > 0 for r in updates)
    assert left_behind(run) == []


def test_each_failure_is_its_episodes_own_and_has_its_cause(run):
    rows = lines(run / "outcomes.jsonl")
    assert {kind(row) for row in rows} == {"good", *EIGHT}
    for row in rows:
        broken = CAUSES.get(kind(row))
        if broken:
            assert row["end"] == "failed", row
            assert row["failure"].startswith(broken), row
        else:
            assert row["end"] == ("truncated" if kind(row) == "endless" else "terminated"), row
            assert "failure" not in row


def test_the_other_episodes_take_at_most_a_tenth_longer(run, capsys):
    """Within one evaluation, and as the best of all: the machine does other things, too."""
    rows = lines(run / "outcomes.jsonl")
    seconds = {}
    for row in rows:
        if kind(row) == "good" and row["decoding"] == "greedy":
            place = (row["stage"], row["update"])
            seconds.setdefault(place, {}).setdefault(row["variant"], []).append(row["seconds"])
    assert len(seconds) == 4
    ratios = {
        place: statistics.median(by["together"]) / statistics.median(by["alone"])
        for place, by in seconds.items()
    }
    with capsys.disabled():
        for (stage, update), ratio in ratios.items():
            alone = statistics.median(seconds[stage, update]["alone"])
            print(f"\n{stage} {update}: {TURNS} turns take {alone:.2f} s alone, x {ratio:.2f}")
    assert min(ratios.values()) <= 1.1, ratios
