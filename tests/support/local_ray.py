"""A small Ray of a test's own, whose workers import this checkout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import ray

from configs.paths import ROOT


@contextlib.contextmanager
def local_ray() -> Iterator[None]:
    """Two CPUs, 128 MiB of objects, no dashboard."""
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=2**27,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    try:
        yield
    finally:
        ray.shutdown()
