"""Why a run does not fit a cluster: one sentence with the resource, the place and what would fit.

Input: the groups that were requested and the nodes that could not hold them. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from cluster.placement.arrange import Resources, arrange
from cluster.placement.types import DATA, RANK, WORKER, Group, Node
from configs.schema import RunConfig

RESOURCES = ("GPU", "CPU", "memory")  # the one that is named first, if several are short
NAMED = 4  # nodes that a sentence names
OBJECT_STORE, GPU_MEMORY = "object store, for one version of the weights", "GPU memory"
CPU_SHARES = (0.5, 0.25, 0.1)  # of a process, where a whole CPU is too much to reserve
CPU_KEY = {WORKER: "rollout.cpus", RANK: "learner.cpus"}


def explain(cfg: RunConfig, groups: Sequence[Group], nodes: Sequence[Node]) -> str:
    """The sentence; causes are tried from the plainest to the subtlest."""
    working = [node for node in nodes if not node.idle]
    if not working:
        return f"none of the cluster's {len(nodes)} nodes offers a CPU or GPU to work on"
    for cause in (_wrong_kind, _larger_than_a_node, _too_small, _too_much, _busy):
        sentence = cause(cfg, groups, working)
        if sentence:
            return sentence
    remedy = _fitting(cfg, groups, nodes)
    return f"{_requested(groups)} do not fit together on {_names(working)}{remedy}"


def _wrong_kind(cfg: RunConfig, groups: Sequence[Group], nodes: Sequence[Node]) -> str | None:
    kind, tensor = cfg.cluster.accelerator, cfg.rollout.tensor_parallel
    with_gpu = [node for node in nodes if node.total.get("GPU", 0)]
    if kind and not any(node.accelerator == kind for node in with_gpu):
        have = sorted({n.accelerator or "GPUs of no known type" for n in with_gpu})
        others = (
            f"it has {_list(have)} ({_names(with_gpu)})" if have else "no node has a GPU at all"
        )
        return f"cluster.accelerator={kind}: the cluster has none, {others}"
    if tensor > 1 and not with_gpu:
        return f"rollout.tensor_parallel={tensor} counts GPUs, and no node has one: set it to 1"
    return None


def _larger_than_a_node(
    cfg: RunConfig, groups: Sequence[Group], nodes: Sequence[Node]
) -> str | None:
    """A tensor-parallel group, or a process, that the largest node could not hold if empty."""
    eligible = [n for n in nodes if cfg.cluster.accelerator in (None, n.accelerator)]
    largest = max(eligible, key=lambda n: n.total.get("GPU", 0.0))
    gpus, tensor = largest.total.get("GPU", 0.0), cfg.rollout.tensor_parallel
    if gpus and tensor > gpus:
        return (
            f"rollout.tensor_parallel={tensor} is larger than a node: its GPUs must be in one, "
            f"and the largest, {largest.name}, has {gpus:g}; {gpus:g} or fewer would fit"
        )
    for group in groups:
        able = [n for n in eligible if group.gpus <= n.total.get("GPU", 0.0)] or eligible
        largest = max(able, key=lambda n: n.total.get("CPU", 0.0))
        if group.cpus > largest.total.get("CPU", 0.0):
            key = CPU_KEY.get(group.role, "")
            return (
                f"too few CPUs: a {group.role} asks for {group.cpus:g} CPU"
                f"{f' ({key})' if key else ''} and the largest node, {largest.name}, has "
                f"{largest.total.get('CPU', 0.0):g}; that or less would fit"
            )
    return None


def _too_small(cfg: RunConfig, groups: Sequence[Group], nodes: Sequence[Node]) -> str | None:
    """Memory of the host, of its object store or of a GPU that no node has enough of."""
    with_gpu = [node for node in nodes if node.total.get("GPU")]
    stores = [(node, node.total.get("object_store_memory")) for node in nodes]
    for group in groups:
        sentences = (
            _short_of_memory(
                group, "memory", group.memory, [(n, n.total.get("memory")) for n in nodes]
            ),
            _short_of_memory(group, OBJECT_STORE, group.object_store, stores),
            _short_of_memory(
                group, GPU_MEMORY, group.gpu_gib * 2**30, [(n, _card(n)) for n in with_gpu]
            ),
        )
        for sentence in filter(None, sentences):
            return sentence
    return None


def _short_of_memory(
    group: Group, kind: str, need: float, sizes: Sequence[tuple[Node, float | None]]
) -> str | None:
    """The sentence if no node has `need` bytes of a kind of memory and all sizes are known."""
    known = [(size, node) for node, size in sizes if size is not None]
    if not known or len(known) < len(sizes):
        return None
    size, largest = max(known, key=lambda pair: pair[0])
    if need <= size:
        return None
    if kind == OBJECT_STORE:
        remedy = "start Ray with a larger one"
    elif group.role == RANK:
        remedy = (
            "learner.zero_stage=3 over more ranks, fewer learner.microbatch_tokens or a smaller "
            "model would fit"
        )
    elif kind == GPU_MEMORY:
        remedy = "a larger rollout.tensor_parallel or a smaller model would fit"
    else:
        remedy = (
            "a larger rollout.tensor_parallel on GPUs, less rollout.kv_cache_gib or a smaller "
            "model would fit"
        )
    on_gpu = kind == GPU_MEMORY
    gpu = f" ({largest.accelerator})" if on_gpu and largest.accelerator else ""
    parts = f" ({group.gpu_parts})" if on_gpu and group.gpu_parts else ""
    return (
        f"too little memory: a {group.role} needs {need / 2**30:.1f} GiB of {kind}{parts}, "
        f"and the largest node, {largest.name}{gpu}, has {size / 2**30:.1f}; {remedy}"
    )


def _too_much(cfg: RunConfig, groups: Sequence[Group], nodes: Sequence[Node]) -> str | None:
    """More in all than the whole cluster has, were it empty."""
    total = {n.id: n.total for n in nodes}
    for name in RESOURCES:
        if arrange(cfg, groups, total, nodes, (name,)) is None:
            return (
                f"too {'little memory' if name == 'memory' else f'few {name}s'}: "
                f"{_requested(groups, name)}, the cluster has {_offer(nodes, total, name)}"
                f"{_fitting(cfg, groups, nodes, total)}"
            )
    return None


def _busy(cfg: RunConfig, groups: Sequence[Group], nodes: Sequence[Node]) -> str | None:
    """It would fit, but others hold what it needs."""
    total, free = {n.id: n.total for n in nodes}, {n.id: n.free for n in nodes}
    if arrange(cfg, groups, total, nodes) is None:
        return None
    short = [n for n in RESOURCES if arrange(cfg, groups, free, nodes, (n,)) is None]
    name = short[0] if short else "CPU"
    remedy = _fitting(cfg, groups, nodes, free).replace(";", ", or make do:")
    return (
        f"the cluster is busy: {_requested(groups, name)}, and of {_offer(nodes, total, name)} "
        f"others leave {_offer(nodes, free, name)}; wait until they end{remedy}"
    )


def _fitting(
    cfg: RunConfig,
    groups: Sequence[Group],
    nodes: Sequence[Node],
    offered: Mapping[str, Resources] | None = None,
) -> str:
    """`; rollout.workers=… would fit`: the nearest numbers of processes that do; "" if none.

    Where no number does, smaller reservations of CPUs: `; rollout.cpus=0.5 would fit`.
    """
    offered = offered or {n.id: n.total for n in nodes}

    def fits(workers: int, ranks: int) -> bool:
        counts = {WORKER: workers, RANK: ranks}
        smaller = [replace(g, count=counts.get(g.role, g.count)) for g in groups]
        return arrange(cfg, smaller, offered, nodes) is not None

    for workers, ranks in _fewer(cfg, fits):
        keys = {
            "rollout.workers": (workers, cfg.rollout.workers),
            "learner.ranks": (ranks, cfg.learner.ranks),
        }
        changed = [f"{key}={new}" for key, (new, old) in keys.items() if new != old]
        return f"; {' with '.join(changed)} would fit"
    return _with_smaller_shares(cfg, groups, nodes, offered)


def _with_smaller_shares(
    cfg: RunConfig,
    groups: Sequence[Group],
    nodes: Sequence[Node],
    offered: Mapping[str, Resources],
) -> str:
    """`; rollout.cpus=0.5 would fit`: the largest share of a CPU that does; "" if none."""
    for share in CPU_SHARES:
        for roles in ((WORKER,), (RANK,), (WORKER, RANK)):
            smaller = [replace(g, cpus=share) if g.role in roles else g for g in groups]
            if arrange(cfg, smaller, offered, nodes) is not None:
                changed = [f"{CPU_KEY[g.role]}={share:g}" for g in groups if g.role in roles]
                return f"; {' with '.join(changed)} would fit"
    return ""


def _fewer(cfg: RunConfig, fits: Callable[..., bool]) -> Iterator[tuple[int, int]]:
    """Fewer workers, or ranks, or both, that fit and that the run's other keys allow."""
    workers, ranks, tensor = cfg.rollout.workers, cfg.learner.ranks, cfg.rollout.tensor_parallel
    if cfg.cluster.layout == "colocated":
        most = _most(workers - 1, lambda n: fits(n, n * tensor))
        if most:
            yield most, most * tensor
        return
    batch = cfg.sft.batch_size if cfg.sft.steps else 0
    allowed = [n for n in range(ranks, 0, -1) if batch % n == 0]
    if not batch:
        allowed = sorted({ranks, ranks // 2, ranks // 4, 1} - {0}, reverse=True)
    for fewer in (ranks, *(n for n in allowed if n != ranks and fits(workers, n)), *allowed):
        most = _most(workers - (fewer == ranks), partial(fits, ranks=fewer))
        if most:
            yield most, fewer


def _most(top: int, fits: Callable[[int], bool]) -> int:
    """The largest number of 1 … top that fits, by bisection; 0 if none."""
    low, high = 0, top
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _requested(groups: Sequence[Group], resource: str | None = None) -> str:
    """`2 rollout workers x 4 and 4 learner ranks x 1 need 12 GPU`; of None, who requests."""
    asking = [g for g in groups if resource is None or g.amount(resource)]
    names = [
        g.role if g.role == DATA else f"{g.count} {g.role}{'s' if g.count > 1 else ''}"
        for g in asking
    ]
    if resource is None:
        return _list(names)
    each = [
        f"{name} x {_amount(g.amount(resource), resource)}"
        for name, g in zip(names, asking, strict=True)
    ]
    total = sum(g.count * g.amount(resource) for g in asking)
    unit = "GiB" if resource == "memory" else resource
    return f"{_list(each)} need {_amount(total, resource)} {unit}"


def _offer(nodes: Sequence[Node], offered: Mapping[str, Resources], name: str) -> str:
    """`16 (gpu-a 8 and gpu-b 8)`."""
    amounts = {n.name: offered[n.id].get(name, 0.0) for n in nodes}
    amounts = {node: size for node, size in amounts.items() if size} or amounts
    listed = [f"{node} {_amount(size, name)}" for node, size in amounts.items()]
    total = _amount(sum(amounts.values()), name)
    return f"{total} ({_list(listed)})" if len(amounts) > 1 else f"{total} ({next(iter(amounts))})"


def _amount(size: float, name: str) -> str:
    return f"{size / 2**30:.1f}" if name == "memory" else f"{size:g}"


def _card(node: Node) -> float | None:
    return None if node.gpu_gib is None else node.gpu_gib * 2**30


def _names(nodes: Sequence[Node]) -> str:
    return _list([node.name for node in nodes])


def _list(parts: Sequence[str]) -> str:
    """`a, b and c`, or the first few and how many more."""
    shown = list(parts)
    if len(shown) > NAMED:
        shown = [*shown[:NAMED], f"{len(parts) - NAMED} more"]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
