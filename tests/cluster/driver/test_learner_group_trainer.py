"""What the trainer of a learner group is given."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.train import ScalingConfig

from cluster.deadlines import group_deadline_s
from cluster.driver import learner_group
from cluster.driver.group_watch import Signs
from cluster.driver.hung_ranks import HungRanks
from cluster.driver.learner_group import make_trainer
from configs.load import load
from tests.cluster.fakes import FakeToken


def test_no_process_of_ray_trains_own_outlives_a_controller(tmp_path, monkeypatch):
    monkeypatch.setattr(learner_group, "scaling", lambda cfg, plan: ScalingConfig(num_workers=1))
    job = SimpleNamespace(
        cfg=load("gp_l_debug"), folder=str(tmp_path), token=FakeToken(tmp_path), model="initial"
    )
    callbacks = make_trainer(job, SimpleNamespace(gpu=False))._create_default_callbacks()
    names = {type(callback).__name__ for callback in callbacks}
    assert {"BackendSetupCallback", "Signs"} < names
    assert "PlacementGroupCleanerCallback" not in names


@pytest.mark.parametrize(
    ("gpu", "backend", "heartbeat_s", "silent_s"),
    [(False, "gloo", 30, "27.0"), (True, "nccl", 10, "7.0"), (True, "nccl", 2, "1.0")],
)
def test_what_ray_train_is_told(monkeypatch, tmp_path, gpu, backend, heartbeat_s, silent_s):
    seen = {}
    monkeypatch.setattr(learner_group, "Trainer", lambda *_, **given: seen.update(given))
    monkeypatch.setattr(learner_group, "scaling", lambda cfg, plan: "scaling")
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "")
    heartbeat = f"cluster.heartbeat_s={heartbeat_s}"
    cfg = load("gp_l_debug", ["cluster.start_deadline_s=40", "learner.max_restarts=5", heartbeat])
    job = SimpleNamespace(cfg=cfg, folder=str(tmp_path), token=FakeToken(tmp_path), model="initial")
    make_trainer(job, SimpleNamespace(gpu=gpu))
    assert learner_group.os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] == "40.0"
    assert learner_group.os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] == silent_s
    assert seen["torch_config"].backend == backend
    assert seen["torch_config"].timeout_s == int(group_deadline_s(cfg))
    assert seen["train_loop_config"] == {"job": job}
    assert seen["run_config"].failure_config.max_failures == -1
    assert seen["run_config"].failure_config.controller_failure_limit == 0
    limit, hung, signs = seen["run_config"].callbacks
    assert (limit._most, type(hung)) == (5, HungRanks)
    assert (type(signs), signs._token) == (Signs, job.token)
    assert seen["run_config"].storage_path == str(tmp_path)
