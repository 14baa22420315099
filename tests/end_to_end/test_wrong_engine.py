"""One engine of two that keeps its old weights ends the run, and the message names its worker."""

import subprocess
import sys

import pytest

from configs.paths import ROOT
from tests.end_to_end.test_train import CONFIGURATION, finish, left_behind, lines, marked, wait_for
from tests.support.wrong_engine import WRONG

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TWO_ENGINES = (
    "rollout.workers=2",
    "rollout.in_flight=32",
    "ppo.updates=60",
    "ppo.optimizer.schedule=constant",
)


def updates(run):
    return [record for record in lines(run / "metrics.jsonl") if record["kind"] == "ppo"]


@pytest.mark.parametrize("staleness", [0, 1])
def test_an_engine_that_keeps_its_weights_is_named(tmp_path, staleness):
    run, file, fault = tmp_path / "run", tmp_path / "capitals.yaml", tmp_path / "fault"
    file.write_text(CONFIGURATION)
    command = [sys.executable, "-m", "tests.support.wrong_engine", fault, "train", file, "name=run"]
    keys = (f"cluster.root={tmp_path}", f"ppo.max_staleness={staleness}", *TWO_ENGINES)
    process = subprocess.Popen(
        [*map(str, command), *keys],
        cwd=ROOT,
        env=marked(run),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(run, lambda record: record["kind"] == "ppo" and record["update"] == 2, 900)
    fault.touch()
    code, _, err = finish(process, 600)
    assert code == 1, err[-3000:]
    (last,) = [line for line in err.splitlines() if line.startswith("cardinal: ")]
    assert f"rollout worker {WRONG} " in last and "other weights" in last, last
    assert not left_behind(run)
    assert updates(run)[-1]["update"] <= 12
