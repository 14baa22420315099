"""A small Ray of a test's own, whose workers import this checkout."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import ray
from ray.actor import ActorHandle

from cluster.driver.session import _start_local
from configs.load import load
from configs.paths import ROOT

SLOW_MACHINE = {
    "RAY_worker_niceness": "0",  # by Ray's own 15 its workers starve beside anything else
    "RAY_memory_monitor_refresh_ms": "0",  # it ends them where others take the machine's memory
}


def kill(actor: ActorHandle) -> None:
    """End an actor and see it dead: `ray.kill` returns while calls may still be answered."""
    ray.kill(actor)
    with contextlib.suppress(ray.exceptions.RayActorError):
        while True:
            ray.get(actor.__ray_ready__.remote(), timeout=300)


def replace_dead(actors: list[ActorHandle], make: Callable[[], ActorHandle]) -> None:
    """Put a new actor in the place of each that has died, and see all of them started."""
    for place, actor in enumerate(actors):
        try:
            ray.get(actor.__ray_ready__.remote(), timeout=300)
        except ray.exceptions.RayActorError:
            actors[place] = make()
    ray.get([actor.__ray_ready__.remote() for actor in actors], timeout=300)


@contextlib.contextmanager
def local_ray() -> Iterator[None]:
    """Two CPUs or the machine's, 128 MiB of objects; started as a run starts its own."""
    cfg = load("gp_l_debug", ["cluster.object_store_gib=0.125"])
    with pytest.MonkeyPatch.context() as environment:
        for name, value in SLOW_MACHINE.items():
            environment.setenv(name, value)
        _start_local(cfg, 1.0, {"env_vars": {"PYTHONPATH": str(ROOT)}})
    try:
        yield
    finally:
        ray.shutdown()
