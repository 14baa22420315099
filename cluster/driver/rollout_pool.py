"""Ray and the rollout actors of a run, kept for the next run if that one can use them,
so that a study starts its engines once: a start takes longer than a short arm.
"""

from __future__ import annotations

import sys
import uuid
from contextlib import ExitStack
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError

from cluster.driver.session import SHUTDOWN_S, session
from cluster.environments import environments
from cluster.failures import first_line
from cluster.handles import BufferHandle, RolloutWorkerHandle, kill
from cluster.placement.layout import loss_ends_run, weight_channel
from cluster.placement.plan import cpus
from cluster.placement.types import WORKER, Plan
from cluster.run.last_resort import DONE, within
from cluster.run.outcome import HANGS, outcome
from cluster.run.run_folder import folder_of
from configs.schema import RunConfig

NON_WEIGHT_FILES = ("*.json", "*.jinja", "*.model", "merges.txt")  # of a model folder
ENGINES_S = 20.0  # for engines to end by request
MARGIN_S = 10.0  # so that who waits for Ray alone, which has its own deadline, gives up first
CLOSE_S = ENGINES_S + SHUTDOWN_S + MARGIN_S


class RolloutPool:
    """A context; at its end all actors end, and Ray with them.

    For each run: `join`, where something is to be done before an engine takes its GPUs; `acquire`;
    then `release` if the run ended well, `close` if it did not.

    demonstrations: whether to reserve Ray Data's CPUs, for later runs that read demonstrations.
    """

    def __init__(self, demonstrations: bool = False) -> None:
        self._demonstrations = demonstrations
        self._session = ExitStack()
        self._buffer: BufferHandle | None = None
        self._workers: dict[str, RolloutWorkerHandle] | None = None  # None: not started
        self._key: dict[str, object] | None = None  # runs with an equal one can use what is there
        self._reusable = False
        self._done = False  # what the last run came to is saved, and there is no other

    def __enter__(self) -> RolloutPool:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def join(self, cfg: RunConfig, model: str, learn: bool = True) -> Plan:
        """Ray, and where a run's processes will go; none is started that this pool does not have.

        Args:
            cfg: the run.
            model: folder of its initial model; its weights come from the learner, so engines
                that hold another model with the same sizes and tokenizer are kept.
            learn: False places rollout actors only (evaluation).

        Raises:
            ConfigError, RunFailure: as `session.session` and `ray_options.place`.
        """
        from cluster.placement.ray_options import place

        cfg = self._reserving(cfg)
        key = sharing_key(cfg, model)
        self._done = False
        if key != self._key:
            self.close()
            self._session.enter_context(session(cfg, cpus(cfg)))
            self._key = key
        if self._workers is None:
            self._plan = place(cfg, model, learn)
        return self._plan

    def acquire(
        self, cfg: RunConfig, model: str, learn: bool = True
    ) -> tuple[Plan, list[RolloutWorkerHandle], BufferHandle]:
        """Where processes go, the rollout actors, and a new buffer over them.

        The buffer's `start` has them take up this run. Arguments and errors are those of `join`.
        """
        from cluster.placement.ray_options import buffer_options
        from cluster.stream.buffer import TrajectoryBuffer

        self.join(cfg, model, learn)  # anew: others may have come since
        cfg = self._reserving(cfg)
        if self._workers is None:
            self._workers = _start_workers(cfg, model, self._plan)
            self._session.callback(_stop_workers, [*self._workers.values()])
            # Channels over GPUs tie engines to one learner, an evaluation to one model.
            self._reusable = learn and weight_channel(cfg, self._plan.gpu) == "object_store"
        restarts = weight_channel(cfg, self._plan.gpu) == "object_store"
        options = buffer_options(self._plan, restarts)
        if (fixed := loss_ends_run(cfg, self._plan.gpu)) and learn:
            print(fixed, file=sys.stderr)
        actor = TrajectoryBuffer.options(**options).remote(  # type: ignore[attr-defined]
            [*self._workers], _sent(cfg), not fixed
        )
        self._buffer = BufferHandle(actor)
        return self._plan, [*self._workers.values()], self._buffer

    def release(self) -> None:
        """A run has ended well, and all that it came to is saved: its buffer goes.

        Actors stay where another run may use them.
        """
        self._done = True
        if self._reusable:
            self._kill_buffer()
        else:
            self.close()

    def close(self) -> None:
        """End all actors and Ray; if an exception is propagating, Ray is left as after an error.

        Where that takes longer than CLOSE_S, their processes are ended by force.
        """
        failure = sys.exc_info()
        last = outcome(failure[1]) if failure[1] else DONE if self._done else HANGS
        with within(CLOSE_S, "Ray and the engines", *last):
            self._kill_buffer()  # it would take the end of an engine for a loss
            ending, self._session = self._session, ExitStack()
            self._key = self._workers = None
            ending.__exit__(*failure)

    def _kill_buffer(self) -> None:
        if self._buffer is not None and ray.is_initialized():
            kill(self._buffer.actor)
        self._buffer = None

    def keep_logs(self, folder: Path) -> None:
        """Copy the logs of this run's processes to RUN/logs, of all nodes."""
        from cluster.run.logs import keep_logs, keep_logs_of_other_nodes, session_logs

        source = session_logs()
        if source is not None:
            job = ray.get_runtime_context().get_job_id() if ray.is_initialized() else None
            keep_logs(folder, source, job)
        keep_logs_of_other_nodes(folder)

    def _reserving(self, cfg: RunConfig) -> RunConfig:
        """The run, with CPUs for Ray Data where a later one may need them."""
        if not self._demonstrations:
            return cfg
        return replace(cfg, sft=replace(cfg.sft, steps=max(1, cfg.sft.steps)))


def sharing_key(cfg: RunConfig, model: str) -> dict[str, object]:
    """What Ray and the engines of a run depend on: runs with equal keys can share them."""
    digest = blake2b(digest_size=16)
    files = sorted({file for kind in NON_WEIGHT_FILES for file in Path(model).glob(kind)})
    for file in files:
        if not file.name.endswith(".index.json"):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return {
        "model": digest.hexdigest(),
        "dtype": cfg.model.dtype,
        "rollout": asdict(cfg.rollout),
        "cluster": asdict(cfg.cluster) | {"root": None},
        "cpus": cpus(cfg),
        "ranks": cfg.learner.ranks,
    }


def _sent(cfg: RunConfig) -> RunConfig:
    """The configuration for processes whose working directory may be another."""
    return replace(cfg, cluster=replace(cfg.cluster, root=str(folder_of(cfg).parent)))


def _start_workers(cfg: RunConfig, model: str, plan: Plan) -> dict[str, RolloutWorkerHandle]:
    """Rollout actors on the nodes of the plan, by name; their engines start in the background."""
    from cluster.actors import RolloutActor
    from cluster.placement.ray_options import worker_options

    played, channel = environments(cfg), weight_channel(cfg, plan.gpu)
    workers: dict[str, RolloutWorkerHandle] = {}
    for index, place in enumerate(plan.of(WORKER)):
        name = f"rollout worker {index} {uuid.uuid4().hex}"  # one that ends keeps its name a while
        actor = RolloutActor.options(name=name, **worker_options(place))  # type: ignore[attr-defined]
        workers[name] = actor.remote(_sent(cfg), model, played, channel, index)
    if not any(place.colocated_ranks for place in plan.places):  # those wait for the ranks' GPUs
        for worker in workers.values():
            worker.start.remote()
    return workers


def _stop_workers(workers: list[RolloutWorkerHandle]) -> None:
    """End engines by request, then actors by force; a dead one takes no time from the others."""
    ends = [worker.shutdown.remote() for worker in workers]
    ray.wait(ends, num_returns=len(ends), timeout=ENGINES_S)
    for index, (worker, end) in enumerate(zip(workers, ends, strict=True)):
        try:
            ray.get(end, timeout=0)
        except GetTimeoutError:
            print(f"rollout worker {index} did not end within {ENGINES_S:g} s: it is killed")
        except RayError as error:
            print(f"rollout worker {index} did not end by request: {first_line(error)}")
        kill(worker)
