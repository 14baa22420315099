"""Placement: which processes a run starts, what each asks of Ray, and whether it fits.

Comes in: a configuration and the cluster's resources; goes out: a plan, or one sentence that
names the resource that is short. Nothing waits for a placement group that cannot be met.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.failures import PlacementError
from configs.schema import RunConfig

DATA_CPUS = 0.5  # for Ray Data's reading and rendering tasks during SFT


@dataclass(frozen=True)
class Group:
    """`count` equal processes.

    role: what they do.
    cpus, gpus: what each asks of Ray.
    """

    role: str
    count: int
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Plan:
    """All processes of a run."""

    groups: tuple[Group, ...]

    @property
    def cpus(self) -> float:
        """Logical CPUs in all."""
        return sum(g.count * g.cpus for g in self.groups)

    @property
    def gpus(self) -> float:
        """GPUs in all."""
        return sum(g.count * g.gpus for g in self.groups)

    def verify(self, available: dict[str, float]) -> None:
        """Raise PlacementError if the cluster's free resources do not hold the plan."""
        for name, need in (("CPU", self.cpus), ("GPU", self.gpus)):
            have = available.get(name, 0.0)
            if need > have + 1e-6:
                parts = ", ".join(
                    f"{g.count} {g.role} x {g.cpus if name == 'CPU' else g.gpus:g}"
                    for g in self.groups
                )
                raise PlacementError(
                    f"the run needs {need:g} {name} ({parts}), Ray offers {have:g}: "
                    f"lower rollout.workers, learner.ranks or their cpus, or free the cluster"
                )


def plan(cfg: RunConfig, gpu: bool) -> Plan:
    """The processes of a run, on GPUs or on CPUs alone."""
    rollout = Group(
        "rollout worker",
        cfg.rollout.workers,
        cfg.rollout.cpus,
        float(cfg.rollout.tensor_parallel) if gpu else 0.0,
    )
    learner = Group("learner rank", cfg.learner.ranks, cfg.learner.cpus, 1.0 if gpu else 0.0)
    data = Group("data tasks", 1 if cfg.sft.steps else 0, DATA_CPUS, 0.0)
    return Plan((rollout, learner, data))
