"""The data of a placement: nodes, what a run's processes need, and where each of them goes.

Frozen values without Ray, so that plans are made and tested without a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

DATA_CPUS = 0.5  # for Ray Data's reading and rendering tasks during SFT
WORKER, RANK, DATA = "rollout worker", "learner rank", "data tasks"
ROLE = "cardinal/role"  # a label of a node: who may have it; without one, everybody
ROLLOUT, LEARNER, COLOCATED = "rollout", "learner", "colocated"  # its values
ADMITS = {ROLLOUT: (WORKER,), LEARNER: (RANK, DATA), COLOCATED: (WORKER, RANK, DATA)}
SLACK = 1e-6  # Ray counts in ten-thousandths of a CPU
RESERVE = 0.9  # of a GPU: the rest is CUDA's own, fragments, and the answers' log-probabilities
GPU_GIB = {  # of a GPU by the name that Ray gives it, where its node cannot be asked
    "A10G": 24,
    "A100": 80,
    "A100-40G": 40,
    "A100-80G": 80,
    "B200": 192,
    "H20": 141,
    "H100": 80,
    "H200": 141,
    "K80": 12,
    "L4": 24,
    "L40S": 48,
    "P4": 8,
    "P100": 16,
    "RTX-PRO-6000": 96,
    "T4": 16,
    "V100": 32,
}


@dataclass(frozen=True)
class Node:
    """One node of a cluster.

    id, name: Ray's, and one for people.
    total, free: resources that it has, and those that no process has reserved: CPU and GPU as
        counts, memory and object_store_memory in bytes; a name that is absent counts as 0.
    accelerator: type of its GPUs as Ray names it.
    card: bytes of the smallest of its GPUs, where the node was asked.
    labels: the cluster owner's and Ray's own.
    """

    id: str
    name: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    accelerator: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    card: int | None = None

    @property
    def idle(self) -> bool:
        """Whether it is kept free of work: a head with num_cpus=0."""
        return not (self.total.get("CPU", 0) or self.total.get("GPU", 0))

    @property
    def gpu_gib(self) -> float | None:
        """Memory of each of its GPUs; None where it is not known."""
        return self.card / 2**30 if self.card else GPU_GIB.get(self.accelerator or "")


@dataclass(frozen=True)
class Needs:
    """Memory of a run's processes, bytes.

    worker, rank: of a process in its host's memory.
    engine_gpu: by part on each GPU of an engine, within rollout.gpu_memory of it.
    rank_gpu: on a rank's GPU.
    worker_beside: on each GPU of an engine outside of that.
    weights: of one version of the policy, what passes through each object store.
    """

    worker: int = 0
    rank: int = 0
    engine_gpu: Mapping[str, int] = field(default_factory=dict)
    rank_gpu: int = 0
    worker_beside: int = 0
    weights: int = 0


@dataclass(frozen=True)
class Group:
    """`count` equal processes, each of which stays inside a node.

    cpus, gpus, memory: what each takes of its node, memory in bytes.
    gpu_gib: memory that each of its GPUs must have, of which a rank fills RESERVE at most.
    gpu_parts: what of, in words.
    object_store: bytes that its node's object store must hold.
    accelerator: the GPU type that it must get; None takes any.
    """

    role: str
    count: int
    cpus: float
    gpus: float = 0.0
    memory: int = 0
    gpu_gib: float = 0.0
    gpu_parts: str = ""
    object_store: int = 0
    accelerator: str | None = None

    def amount(self, resource: str) -> float:
        """What one process takes of a resource, by Ray's name."""
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}[resource]

    def suits(self, node: Node) -> bool:
        """Whether a node is of the kind that it needs, whatever that node has free."""
        if node.idle or self.object_store > node.total.get("object_store_memory", float("inf")):
            return False
        if self.role not in ADMITS.get(node.labels.get(ROLE, ""), (self.role,)):
            return False
        if self.accelerator and node.accelerator != self.accelerator:
            return False
        return self.gpu_gib <= (node.gpu_gib or float("inf"))


@dataclass(frozen=True)
class Place:
    """Process `index` of a role on a node.

    colocated_ranks: the learner ranks whose GPUs a rollout worker shares.
    """

    role: str
    index: int
    node: Node
    cpus: float
    gpus: float
    colocated_ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Where each process of a run goes.

    groups: what was requested.
    places: by role and index.
    nodes: of the cluster, those without work too.
    """

    groups: tuple[Group, ...]
    places: tuple[Place, ...]
    nodes: tuple[Node, ...]

    @property
    def gpu(self) -> bool:
        """Whether workers and ranks run on GPUs."""
        return any(p.gpus for p in self.places)

    def of(self, role: str) -> list[Place]:
        """The places of a role, by index."""
        return [p for p in self.places if p.role == role]

    def hosts(self, *roles: str) -> list[Node]:
        """The nodes that hold processes of these roles (of any, if none is named), each once."""
        chosen = [p.node for p in self.places if not roles or p.role in roles]
        return list({node.id: node for node in chosen}.values())

    def closed_to_ranks(self) -> list[str]:
        """Ids of nodes that learner ranks must leave alone: of workers only, or for no work."""
        ranks = {node.id for node in self.hosts(RANK)}
        workers = {node.id for node in self.hosts(WORKER)}
        return [n.id for n in self.nodes if n.id not in ranks and (n.id in workers or n.idle)]
