"""Placement: which process of a run goes to which node, or one sentence that says why not.

Comes in: a configuration, nodes and sizes as data; goes out: a plan. Tensor-parallel groups stay
inside a node, learner ranks are packed, rollout workers spread. Knows no Ray and starts nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.failures import ClusterBusyError, PlacementError
from configs.schema import RunConfig

DATA_CPUS = 0.5  # for Ray Data's reading and rendering tasks during SFT
WORKER, RANK, DATA = "rollout worker", "learner rank", "data tasks"
SLACK = 1e-6  # Ray counts in ten-thousandths of a CPU
GPU_GIB = {  # the largest memory that is sold under the name that Ray gives a GPU
    "K80": 12, "P4": 8, "P100": 16, "T4": 16, "V100": 32, "A10G": 24, "L4": 24, "L40S": 48,
    "A100": 80, "A100-40G": 40, "A100-80G": 80, "H20": 141, "H100": 96, "H200": 141, "B200": 192,
    "RTX-PRO-6000": 96,
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One node of a cluster.

    id, name: Ray's, and one for people.
    total, free: what it has and what nobody holds: CPU and GPU as counts, memory and
        object_store_memory in bytes; what is not named it does not have.
    accelerator: type of its GPUs as Ray names it.
    labels: the cluster owner's and Ray's own.
    """

    id: str
    name: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    accelerator: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    """Bytes that processes take.

    worker, rank: of a process in its host's memory.
    worker_device, rank_device: on each of its GPUs, for the engine within rollout.gpu_memory.
    weights: one version of the policy, which passes through each object store.
    """

    worker: int = 0
    rank: int = 0
    worker_device: int = 0
    rank_device: int = 0
    weights: int = 0


@dataclass(frozen=True)
class Group:
    """`count` equal processes, each of which stays inside a node.

    cpus, gpus, memory: what each takes of its node, memory in bytes.
    device: GiB that each of its GPUs must have.
    store: bytes that its node's object store must hold.
    accelerator: the GPU type that it must get; None takes any.
    """

    role: str
    count: int
    cpus: float
    gpus: float = 0.0
    memory: int = 0
    device: float = 0.0
    store: int = 0
    accelerator: str | None = None

    def amount(self, resource: str) -> float:
        """What one process takes of a resource, by Ray's name."""
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}[resource]


@dataclass(frozen=True)
class Place:
    """Process `index` of a role on a node.

    shares: the ranks on whose GPUs it runs by turns.
    devices: those GPUs among the node's, in Ray's order.
    """

    role: str
    index: int
    node: Node
    cpus: float
    gpus: float
    shares: tuple[int, ...] = ()
    devices: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Where each process of a run goes.

    groups: what was asked for.
    places: by role and index.
    nodes: of the cluster, those without work too.
    """

    groups: tuple[Group, ...]
    places: tuple[Place, ...]
    nodes: tuple[Node, ...]

    @property
    def gpu(self) -> bool:
        """Whether workers and ranks run on GPUs."""
        return any(p.gpus or p.shares for p in self.places)

    def of(self, role: str) -> list[Place]:
        """The places of a role, by index."""
        return [p for p in self.places if p.role == role]

    def hosts(self, *roles: str) -> list[Node]:
        """The nodes that hold processes of these roles (of any without), each once."""
        chosen = [p.node for p in self.places if not roles or p.role in roles]
        return list({node.id: node for node in chosen}.values())

    def closed_to_ranks(self) -> list[str]:
        """Ids of nodes that learner ranks must leave alone: of workers only, or for no work."""
        ranks = {node.id for node in self.hosts(RANK)}
        workers = {node.id for node in self.hosts(WORKER)}
        return [n.id for n in self.nodes if n.id not in ranks and (n.id in workers or idle(n))]

    def rows(self) -> Iterator[tuple[str, ...]]:
        """A line a node, for a table: its name, CPU, GPU, and who works there."""
        for node in self.nodes:
            here = [p for p in self.places if p.node.id == node.id]
            work = "; ".join(filter(None, (_line(role, here) for role in (WORKER, RANK, DATA))))
            kind = f" {node.accelerator}" if node.accelerator else ""
            cpus, gpus = (_taken(node, here, name) for name in ("CPU", "GPU"))
            yield node.name, cpus, gpus + kind, work or "(no work)"


def plan(
    cfg: RunConfig, nodes: Sequence[Node], needs: Needs | None = None, learn: bool = True
) -> Plan:
    """Place a run's processes on a cluster; pure.

    Args:
        cfg: the run.
        nodes: of the cluster, in any order.
        needs: bytes of its processes; None looks at CPUs and GPUs alone.
        learn: False places rollout workers only (evaluation).

    Raises:
        PlacementError: one sentence: which resource is short, where, and what would fit.
        ClusterBusyError: the same, where it would fit if others held nothing.
    """
    from cluster.placement.shortage import explain

    gpu = any(node.total.get("GPU", 0) for node in nodes)
    wanted = groups(cfg, gpu, needs or Needs(), learn)
    possible = gpu or cfg.rollout.tensor_parallel == 1
    found = arrange(cfg, wanted, {n.id: n.free for n in nodes}, nodes) if possible else None
    if found is None:
        empty = arrange(cfg, wanted, {n.id: n.total for n in nodes}, nodes) if possible else None
        raise (ClusterBusyError if empty else PlacementError)(explain(cfg, wanted, nodes))
    return Plan(wanted, tuple(found), tuple(sorted(nodes, key=lambda n: n.name)))


def groups(cfg: RunConfig, gpu: bool, needs: Needs, learn: bool = True) -> tuple[Group, ...]:
    """What a run asks for: rollout workers, learner ranks, room for Ray Data's tasks."""
    rollout, learner = cfg.rollout, cfg.learner
    accelerator = cfg.cluster.accelerator
    shared = cfg.cluster.layout == "colocated" and learn
    worker = Group(
        WORKER, rollout.workers, rollout.cpus,
        float(rollout.tensor_parallel) if gpu and not shared else 0.0, needs.worker,
        needs.worker_device / rollout.gpu_memory / 2**30 if gpu else 0.0, needs.weights,
        accelerator,
    )  # fmt: skip
    rank = Group(
        RANK, learner.ranks, learner.cpus, 1.0 if gpu else 0.0, needs.rank,
        needs.rank_device / 2**30 if gpu else 0.0, needs.weights, accelerator,
    )  # fmt: skip
    data = Group(DATA, 1 if cfg.sft.steps else 0, DATA_CPUS)
    return tuple(g for g in (worker, rank, data) if g.count and (learn or g is worker))


def cpus(cfg: RunConfig) -> float:
    """Logical CPUs of all processes of a run."""
    return sum(g.count * g.cpus for g in groups(cfg, False, Needs()))


def idle(node: Node) -> bool:
    """Whether a node is kept free of work: a head with num_cpus=0."""
    return not (node.total.get("CPU", 0) or node.total.get("GPU", 0))


def suits(node: Node, group: Group) -> bool:
    """Whether a node is of the kind that a group needs, whatever it has free."""
    if idle(node) or group.store > node.total.get("object_store_memory", float("inf")):
        return False
    if group.accelerator and node.accelerator != group.accelerator and group.role != DATA:
        return False
    return group.device <= GPU_GIB.get(node.accelerator or "", float("inf"))


def arrange(
    cfg: RunConfig,
    wanted: Sequence[Group],
    offered: Mapping[str, Mapping[str, float]],
    nodes: Sequence[Node],
    resources: Sequence[str] = ("CPU", "GPU", "memory"),
) -> list[Place] | None:
    """Places for all, or None.

    Args:
        cfg: the run, for its layout.
        wanted: its groups.
        offered: what may be taken, by node id.
        nodes: of the cluster.
        resources: those that are looked at.
    """
    by_role = {g.role: g for g in wanted}
    worker, rank, data = by_role[WORKER], by_role.get(RANK), by_role.get(DATA)
    for home in _homes(rank, nodes, offered, resources):
        rooms = [_Room(n, offered[n.id], resources) for n in sorted(nodes, key=lambda n: n.name)]
        places = _attempt(cfg, worker, rank, rooms, home)
        extra = _spread(data, rooms) if data and places else []
        if places and extra is not None:
            return [*places, *extra]
    return None


class _Room:
    """What is left of a node while processes are placed."""

    def __init__(self, node: Node, free: Mapping[str, float], resources: Sequence[str]) -> None:
        self.node, self.left = node, {name: free.get(name, 0.0) for name in resources}
        self.workers, self.ranks = 0, 0

    def fits(self, *together: Group) -> int:
        """How many more of these groups, one process of each at a time."""
        if not all(suits(self.node, group) for group in together):
            return 0
        asked = {name: sum(g.amount(name) for g in together) for name in self.left}
        counts = [(self.left[n] + SLACK) // each for n, each in asked.items() if each]
        return max(0, int(min(counts))) if counts else 10**6

    def take(self, group: Group, index: int, shares: tuple[int, ...] = ()) -> Place:
        devices = tuple(range(self.ranks, self.ranks + len(shares)))
        for name in self.left:
            self.left[name] -= group.amount(name)
        self.workers += group.role == WORKER
        self.ranks += group.role == RANK
        return Place(group.role, index, self.node, group.cpus, group.gpus, shares, devices)


def _attempt(
    cfg: RunConfig, worker: Group, rank: Group | None, rooms: Sequence[_Room], home: Sequence[str]
) -> list[Place] | None:
    """Workers and ranks, the ranks into `home`; without one, into what workers leave."""
    if rank is None:
        return _spread(worker, rooms)
    if cfg.cluster.layout == "colocated":
        return _together(worker, rank, rooms, cfg.rollout.tensor_parallel)
    if home:
        ranks = _pack(rank, [room for id in home for room in rooms if room.node.id == id])
        workers = _spread(worker, rooms) if ranks else None
    else:
        workers = _spread(worker, rooms)
        ranks = _pack(rank, sorted(rooms, key=lambda r: -r.fits(rank))) if workers else None
    return [*workers, *ranks] if workers and ranks else None


def _homes(
    rank: Group | None,
    nodes: Sequence[Node],
    offered: Mapping[str, Mapping[str, float]],
    resources: Sequence[str],
) -> Iterator[list[str]]:
    """Nodes to pack ranks into, the best first; [] places the workers before them."""
    if rank:
        rooms = [_Room(n, offered[n.id], resources) for n in sorted(nodes, key=lambda n: n.name)]
        able = sorted((r for r in rooms if r.fits(rank)), key=lambda r: r.fits(rank))
        tried: list[dict[str, float]] = []  # of a hundred equal nodes one will do
        for room in able:
            if room.fits(rank) >= rank.count and room.left not in tried:
                tried.append(room.left)
                yield [room.node.id]  # the smallest that holds them all
        largest = sorted(able, key=lambda r: -r.fits(rank))
        yield [room.node.id for room in largest]  # the fewest nodes
    yield []


def _pack(group: Group, rooms: Iterable[_Room]) -> list[Place] | None:
    places: list[Place] = []
    for room in rooms:
        while len(places) < group.count and room.fits(group):
            places.append(room.take(group, len(places)))
    return places if len(places) == group.count else None


def _spread(group: Group, rooms: Sequence[_Room]) -> list[Place] | None:
    """One after the other to the node with the fewest workers, rather one without ranks."""
    if sum(room.fits(group) for room in rooms) < group.count:
        return None
    places = []
    for index in range(group.count):
        able = [room for room in rooms if room.fits(group)]
        room = min(able, key=lambda r: (r.workers, r.ranks > 0, -r.fits(group), r.node.name))
        places.append(room.take(group, index))
    return places


def _together(
    worker: Group, rank: Group, rooms: Sequence[_Room], parallel: int
) -> list[Place] | None:
    """Each engine beside the `parallel` ranks whose GPUs it uses, packed."""
    places: list[Place] = []
    for room in sorted(rooms, key=lambda r: -r.fits(worker, *[rank] * parallel)):
        while len(places) < worker.count + rank.count and room.fits(worker, *[rank] * parallel):
            engine = len(places) // (parallel + 1)
            ranks = tuple(range(engine * parallel, (engine + 1) * parallel))
            places.append(room.take(worker, engine, ranks))
            places += [room.take(rank, index) for index in ranks]
    return places if len(places) == worker.count + rank.count else None


def _line(role: str, here: Sequence[Place]) -> str:
    mine = [p for p in here if p.role == role]
    if not mine or role == DATA:
        return "room for data tasks" if mine else ""
    what = f"{mine[0].cpus:g} CPU" + (f" + {mine[0].gpus:g} GPU" if mine[0].gpus else "")
    by_turns = ", on the ranks' GPUs by turns" if mine[0].shares else ""
    each = "" if len(mine) == 1 else " each"
    numbers = _numbers([p.index for p in mine])
    return f"{role}{'s' if each else ''} {numbers} ({what}{each}{by_turns})"


def _numbers(indices: Sequence[int]) -> str:
    """`0-3, 7`."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def _taken(node: Node, here: Sequence[Place], name: str) -> str:
    used = sum(p.cpus if name == "CPU" else p.gpus for p in here)
    total, free = node.total.get(name, 0.0), node.free.get(name, 0.0)
    held = f", {total - free:g} held by others" if total - free > SLACK else ""
    return f"{used:g} of {total:g}{held}" if total else ""
