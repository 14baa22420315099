"""Ray and the rollout actors, kept from one run to the next that can use them.

Comes in: a configuration and its model; goes out: actors that play for it, and at the end nothing
that runs. A study's engine starts once, not once an arm: that takes longer than a short arm.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.environments import environments
from cluster.failures import first_line
from cluster.placement.layout import weight_channel
from cluster.placement.plan import cpus
from cluster.placement.types import WORKER, Plan
from cluster.session import session
from cluster.wait import answers
from configs.schema import RunConfig

NON_WEIGHT_FILES = (
    "*.json",
    "*.jinja",
    "*.model",
    "merges.txt",
)  # of a model folder: all but its weights


class RolloutPool:
    """A context: what is up when it ends is taken down.

    demonstrations: whether a later run may read some, for which Ray keeps room.
    """

    def __init__(self, demonstrations: bool = False) -> None:
        self._demonstrations = demonstrations
        self._session = ExitStack()
        self._kept: dict[str, Any] | None = None
        self._buffer: Any = None

    def __enter__(self) -> RolloutPool:
        return self

    def __exit__(self, *failure: object) -> None:
        self.dismiss()

    def meet(self, cfg: RunConfig, model: str, learn: bool = True) -> tuple[Plan, list[Any], Any]:
        """Where processes go, the rollout actors, and a new buffer over them.

        Args:
            cfg: the run.
            model: folder of its initial model; its weights come from the learner, so engines
                that play another model with the same sizes and tokenizer are kept.
            learn: False places rollout actors only (evaluation).

        Raises:
            ConfigError, RunFailure: as `session.session` and `ray_options.place`.
        """
        from cluster.buffer import TrajectoryBuffer
        from cluster.placement.ray_options import buffer_options

        if self._demonstrations:
            cfg = replace(cfg, sft=replace(cfg.sft, steps=max(1, cfg.sft.steps)))
        asked = wants(cfg, model)
        if asked != self._kept or not learn:
            self.dismiss()
            self._start(cfg, model, learn)
            shared = weight_channel(cfg, self._placed.gpu) == "object_store"
            self._kept = asked if learn and shared else None  # the others meet one learner
        else:
            seconds, begin = cfg.cluster.start_deadline_s, time.monotonic()
            calls = [worker.reconfigure.remote(cfg, environments(cfg)) for worker in self._workers]
            answers(calls, "rollout worker", "take up a run", seconds, "start_deadline_s", begin)
        options = buffer_options(self._placed)
        self._buffer = TrajectoryBuffer.options(**options).remote(  # type: ignore[attr-defined]
            self._workers, cfg.cluster.block_deadline_s, cfg.cluster.max_failure_rate
        )
        return self._placed, self._workers, self._buffer

    def part(self) -> None:
        """A run has ended well: its buffer goes; actors stay where another run may use them."""
        if self._kept is None:
            self.dismiss()
        else:
            ray.kill(self._buffer)

    def dismiss(self) -> None:
        """End all that is up; called while an error passes, Ray's end is that of an error."""
        session, self._session = self._session, ExitStack()
        self._kept = None
        session.__exit__(*sys.exc_info())

    def _start(self, cfg: RunConfig, model: str, learn: bool) -> None:
        from cluster.placement.ray_options import place

        self._session.enter_context(session(cfg, cpus(cfg)))
        self._placed = place(cfg, model, learn)
        self._workers = _start_workers(cfg, model, self._placed)
        self._session.callback(_stop_workers, self._workers)


def wants(cfg: RunConfig, model: str) -> dict[str, Any]:
    """What a run asks of Ray and its engines; runs that ask for the same can share them."""
    digest = blake2b(digest_size=16)
    files = sorted({file for kind in NON_WEIGHT_FILES for file in Path(model).glob(kind)})
    for file in files:
        if not file.name.endswith(".index.json"):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return {
        "model": digest.hexdigest(), "dtype": cfg.model.dtype, "rollout": asdict(cfg.rollout),
        "cluster": asdict(cfg.cluster) | {"root": None}, "cpus": cpus(cfg),
        "ranks": cfg.learner.ranks,
    }  # fmt: skip


def _start_workers(cfg: RunConfig, model: str, placed: Plan) -> list[Any]:
    """Rollout actors where the plan says; their engines start in the background."""
    from cluster.actors import RolloutActor
    from cluster.placement.ray_options import worker_options

    played, channel = environments(cfg), weight_channel(cfg, placed.gpu)
    workers = [
        RolloutActor.options(**worker_options(p)).remote(  # type: ignore[attr-defined]
            cfg, model, played, channel
        )
        for p in placed.of(WORKER)
    ]
    for worker in workers:
        worker.start.remote()
    return workers


def _stop_workers(workers: list[Any]) -> None:
    """End engines by request, then actors by force; a dead one is no obstacle."""
    try:
        ray.get([worker.shutdown.remote() for worker in workers], timeout=20)
    except RayError as error:
        print(f"an engine did not end by request: {first_line(error)}")
    for worker in workers:
        ray.kill(worker)
