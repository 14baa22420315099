"""A Ray job's time to stop: asked for by its driver, unless its submitter chose one."""

import json
import os
from types import SimpleNamespace

import cloudpickle
import pytest
from ray.exceptions import GetTimeoutError

from cluster.run import stop_wait
from cluster.run.stop_wait import extend_stop_wait
from configs.load import ConfigError
from configs.schema import ClusterConfig

STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
CLUSTER = ClusterConfig(grace_s=40.0)


@pytest.fixture
def ray_job(monkeypatch):
    """This process as the driver of job `first`, and what its supervisor's process gets.

    `ray_job.error` is raised when the supervisor is looked up.
    """
    job = SimpleNamespace(variables={}, error=None)
    config = {"metadata": {"job_submission_id": "first", "job_name": "first"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(config))
    monkeypatch.delenv(STOP_WAIT, raising=False)

    def call(function, *arguments):
        function = cloudpickle.loads(cloudpickle.dumps(function))  # its own globals
        before = dict(os.environ)
        function(None, *arguments)
        job.variables |= {k: v for k, v in os.environ.items() if before.get(k) != v}
        monkeypatch.delenv(STOP_WAIT, raising=False)
        return "answer"

    def get_actor(name, namespace):
        assert (name, namespace) == (
            "_ray_internal_job_actor_first",
            "SUPERVISOR_ACTOR_RAY_NAMESPACE",
        )
        if job.error:
            raise job.error
        return SimpleNamespace(__ray_call__=SimpleNamespace(remote=call))

    monkeypatch.setattr(stop_wait.ray, "get_actor", get_actor)
    monkeypatch.setattr(stop_wait.ray, "get", lambda ref, timeout: (ref, timeout))
    return job


def test_a_job_of_rays_own_command_has_the_time_of_a_submitted_one(ray_job, capsys):
    extend_stop_wait(CLUSTER)
    assert ray_job.variables == {STOP_WAIT: "100"}
    assert capsys.readouterr().err == ""


def test_what_is_no_job_tells_nobody(ray_job, monkeypatch, capsys):
    for config in (None, "{}", json.dumps({"metadata": {}})):
        monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
        if config:
            monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", config)
        extend_stop_wait(CLUSTER)
    assert ray_job.variables == {}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("chosen", "told"), [("100", False), ("40", False), ("39", True)])
def test_a_chosen_time_is_kept_and_told_where_it_is_too_short(
    ray_job, monkeypatch, capsys, chosen, told
):
    monkeypatch.setenv(STOP_WAIT, chosen)
    extend_stop_wait(CLUSTER)
    assert ray_job.variables == {}
    said = capsys.readouterr().err
    assert (f"job first: stopped, it is killed after {chosen} s ({STOP_WAIT})" in said) == told
    assert ("cluster.grace_s=40)" in said) == told


def test_a_chosen_time_that_ray_could_not_read_is_refused(ray_job, monkeypatch):
    monkeypatch.setenv(STOP_WAIT, "90.5")
    with pytest.raises(ConfigError, match=rf"^{STOP_WAIT}=90\.5: must be a whole number"):
        extend_stop_wait(CLUSTER)


@pytest.mark.parametrize("error", [ValueError("no such actor"), GetTimeoutError("late")])
def test_a_supervisor_that_is_not_told_is_no_end_of_the_run(ray_job, capsys, error):
    ray_job.error = error
    extend_stop_wait(CLUSTER)
    said = capsys.readouterr().err
    assert said.startswith("job first: stopped, it is killed after 3 s (it cannot be told to wait")
    assert str(error) in said
    assert said.count("\n") == 1
