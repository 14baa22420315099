"""The search for a placement: groups of processes and free resources in, places out.

Tensor-parallel groups stay inside a node, learner ranks are packed, rollout workers spread.
Pure: no Ray, and the same nodes give the same places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from cluster.placement.types import DATA, RANK, SLACK, WORKER, Group, Node, Place
from configs.schema import RunConfig

RESOURCES = ("CPU", "GPU", "memory")
UNLIMITED = 10**6  # processes that take none of the resources in question

Resources = Mapping[str, float]


def arrange(
    cfg: RunConfig,
    groups: Sequence[Group],
    offered: Mapping[str, Resources],
    nodes: Sequence[Node],
    resources: Sequence[str] = RESOURCES,
) -> list[Place] | None:
    """Places for all processes, or None.

    Args:
        cfg: the run, for its layout.
        groups: its processes.
        offered: what may be taken, by node id.
        nodes: of the cluster.
        resources: those that count; the others are taken to suffice.
    """
    by_role = {group.role: group for group in groups}
    worker, rank, data = by_role[WORKER], by_role.get(RANK), by_role.get(DATA)
    for candidates in _rank_candidates(rank, _capacities(nodes, offered, resources)):
        capacities = _capacities(nodes, offered, resources)
        places = _place_policy(cfg, worker, rank, capacities, candidates)
        data_places = _spread(data, capacities) if data and places else []
        if places and data_places is not None:
            return [*places, *data_places]
    return None


class _Capacity:
    """What is left of a node while processes are placed."""

    def __init__(self, node: Node, free: Resources, resources: Sequence[str]) -> None:
        self.node, self.left = node, {name: free.get(name, 0.0) for name in resources}
        self.workers, self.ranks = 0, 0

    def fits(self, *groups: Group) -> int:
        """How many times one process of each of these groups fits."""
        if not all(group.suits(self.node) for group in groups):
            return 0
        amounts = {name: sum(group.amount(name) for group in groups) for name in self.left}
        counts = [(self.left[n] + SLACK) // amount for n, amount in amounts.items() if amount]
        return max(0, int(min(counts))) if counts else UNLIMITED

    def take(self, group: Group, index: int, colocated_ranks: tuple[int, ...] = ()) -> Place:
        """Place process `index` of a group here."""
        for name in self.left:
            self.left[name] -= group.amount(name)
        self.workers += group.role == WORKER
        self.ranks += group.role == RANK
        return Place(group.role, index, self.node, group.cpus, group.gpus, colocated_ranks)


def _capacities(
    nodes: Sequence[Node], offered: Mapping[str, Resources], resources: Sequence[str]
) -> list[_Capacity]:
    """By name of the node, so that the order of the nodes does not matter."""
    by_name = sorted(nodes, key=lambda node: node.name)
    return [_Capacity(node, offered[node.id], resources) for node in by_name]


def _rank_candidates(rank: Group | None, capacities: Sequence[_Capacity]) -> Iterator[list[str]]:
    """Ids of nodes to pack ranks into, the best first; [] places the workers before them."""
    if rank:
        able = sorted((c for c in capacities if c.fits(rank)), key=lambda c: c.fits(rank))
        tried: list[dict[str, float]] = []  # of a hundred equal nodes one will do
        for capacity in able:
            if capacity.fits(rank) >= rank.count and capacity.left not in tried:
                tried.append(capacity.left)
                yield [capacity.node.id]  # the smallest that holds them all
        largest = sorted(able, key=lambda c: -c.fits(rank))
        yield [capacity.node.id for capacity in largest]  # the fewest nodes
    yield []


def _place_policy(
    cfg: RunConfig,
    worker: Group,
    rank: Group | None,
    capacities: Sequence[_Capacity],
    candidates: Sequence[str],
) -> list[Place] | None:
    """Workers and ranks, the ranks into the candidates; without any, into what workers leave."""
    if rank is None:
        return _spread(worker, capacities)
    if cfg.cluster.layout == "colocated":
        return _colocate(worker, rank, capacities, cfg.rollout.tensor_parallel)
    if candidates:
        by_id = {capacity.node.id: capacity for capacity in capacities}
        ranks = _pack(rank, [by_id[id] for id in candidates])
        workers = _spread(worker, capacities) if ranks else None
    else:
        workers = _spread(worker, capacities)
        largest = sorted(capacities, key=lambda c: -c.fits(rank))
        ranks = _pack(rank, largest) if workers is not None else None
    return [*workers, *ranks] if workers is not None and ranks else None


def _pack(group: Group, capacities: Iterable[_Capacity]) -> list[Place] | None:
    """Fill one node after the other."""
    places: list[Place] = []
    for capacity in capacities:
        while len(places) < group.count and capacity.fits(group):
            places.append(capacity.take(group, len(places)))
    return places if len(places) == group.count else None


def _spread(group: Group, capacities: Sequence[_Capacity]) -> list[Place] | None:
    """One process at a time to the node with the fewest workers, rather one without ranks."""
    if sum(capacity.fits(group) for capacity in capacities) < group.count:
        return None
    places = []
    for index in range(group.count):
        able = [capacity for capacity in capacities if capacity.fits(group)]
        emptiest = min(able, key=lambda c: (c.workers, c.ranks > 0, -c.fits(group), c.node.name))
        places.append(emptiest.take(group, index))
    return places


def _colocate(
    worker: Group, rank: Group, capacities: Sequence[_Capacity], parallel: int
) -> list[Place] | None:
    """Each engine on the node of the `parallel` ranks whose GPUs it shares, packed."""
    bundle = (worker, *[rank] * parallel)
    total = worker.count + rank.count
    places: list[Place] = []
    for capacity in sorted(capacities, key=lambda c: -c.fits(*bundle)):
        while len(places) < total and capacity.fits(*bundle):
            engine = len(places) // (parallel + 1)
            ranks = tuple(range(engine * parallel, (engine + 1) * parallel))
            places.append(capacity.take(worker, engine, ranks))
            places += [capacity.take(rank, index) for index in ranks]
    return places if len(places) == total else None
