"""Submitting: what is refused here, before the cluster is asked."""

import pytest

from cluster.launch import submit
from configs.load import ConfigError, dump, load
from tests.cluster.launch.fake_client import FakeClient

ABSOLUTE = ("name=job", "cluster.root=/shared/runs")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["ppo.updats=3"], "ppo.updats: there is no such key; the nearest is updates"),
        (["env.settings.hand=2"], "hand"),
        (["cluster.root=runs"], "cluster.root=runs: must be absolute"),
        (["model.path=models/x"], "model.path=models/x: must be absolute"),
        (["sft.data=demos"], "sft.data=demos: must be absolute"),
    ],
)
def test_a_run_that_cannot_be_is_refused_here(overrides, words):
    with pytest.raises(ConfigError, match=words):
        submit.validate("gp_l_debug", [*ABSOLUTE, *overrides])


def test_a_run_that_was_begun_with_other_keys_is_refused_here(tmp_path):
    keys = ["name=mine", f"cluster.root={tmp_path}"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text(dump(load("gp_l_debug", keys)))
    assert submit.validate("gp_l_debug", keys).name == "mine"
    with pytest.raises(ConfigError, match=r"begun with ppo.updates=3, and this is 5; choose"):
        submit.validate("gp_l_debug", [*keys, "ppo.updates=5"])


def test_a_model_of_the_hub_is_no_relative_path():
    named = [*ABSOLUTE, "model.path=Qwen/Qwen2.5-0.5B", "env.settings.prompt_style=full"]
    assert submit.validate("gp_l_debug", named).model.path == "Qwen/Qwen2.5-0.5B"


def test_a_job_that_is_stopped_has_the_time_of_its_last_checkpoint():
    cfg = load("gp_l_debug", ["cluster.grace_s=100"])
    variables = submit._variables(cfg, {"MINE": "x"})
    assert variables["RAY_JOB_STOP_WAIT_TIME_S"] == "160"
    assert (variables["RAY_JOB_STOP_SIGNAL"], variables["MINE"]) == ("SIGINT", "x")


def test_a_run_is_not_submitted_twice_at_once():
    submit._refuse_a_running_twin(FakeClient("SUCCEEDED"), "/runs/a")
    submit._refuse_a_running_twin(FakeClient("RUNNING"), "/runs/b")
    with pytest.raises(ConfigError, match="is that of job x, which is running; stop it first"):
        submit._refuse_a_running_twin(FakeClient("RUNNING"), "/runs/a")
