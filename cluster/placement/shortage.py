"""Why a run does not fit a cluster: one sentence with the resource, the place and what would fit.

Comes in: what was asked for and the nodes that could not hold it; goes out: the sentence.
Pure, as cluster.placement.plan is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from cluster.placement.plan import DATA, GPU_GIB, RANK, WORKER, Group, Node, arrange, idle
from configs.schema import RunConfig

RESOURCES = ("GPU", "CPU", "memory")
NAMED = 4  # nodes that a sentence names
CPU_KEY = {WORKER: "rollout.cpus", RANK: "learner.cpus"}


def explain(cfg: RunConfig, wanted: Sequence[Group], nodes: Sequence[Node]) -> str:
    """The sentence; looked for from the plainest cause to the subtlest."""
    working = [node for node in nodes if not idle(node)]
    if not working:
        return f"none of the cluster's {len(nodes)} nodes offers a CPU or GPU to work on"
    for cause in (_wrong_kind, _larger_than_a_node, _too_small, _too_much, _busy):
        sentence = cause(cfg, wanted, working)
        if sentence:
            return sentence
    return (
        f"{_asked(wanted)} do not fit together on {_names(working)}{_fitting(cfg, wanted, nodes)}"
    )


def _wrong_kind(cfg: RunConfig, wanted: Sequence[Group], nodes: Sequence[Node]) -> str | None:
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
    cfg: RunConfig, wanted: Sequence[Group], nodes: Sequence[Node]
) -> str | None:
    """A tensor-parallel group, or a process, that the largest node could not hold if empty."""
    right = [n for n in nodes if cfg.cluster.accelerator in (None, n.accelerator)]
    most = max(right, key=lambda n: n.total.get("GPU", 0.0))
    gpus, tensor = most.total.get("GPU", 0.0), cfg.rollout.tensor_parallel
    if gpus and tensor > gpus:
        return (
            f"rollout.tensor_parallel={tensor} is larger than a node: its GPUs must be in one, "
            f"and the largest, {most.name}, has {gpus:g}; {gpus:g} or fewer would fit"
        )
    for group in wanted:
        able = [n for n in right if group.gpus <= n.total.get("GPU", 0.0)] or right
        most = max(able, key=lambda n: n.total.get("CPU", 0.0))
        if group.cpus > most.total.get("CPU", 0.0):
            key = CPU_KEY.get(group.role, "")
            return (
                f"too few CPUs: a {group.role} asks for {group.cpus:g} CPU"
                f"{f' ({key})' if key else ''} and the largest node, {most.name}, has "
                f"{most.total.get('CPU', 0.0):g}; that or less would fit"
            )
    return None


def _too_small(cfg: RunConfig, wanted: Sequence[Group], nodes: Sequence[Node]) -> str | None:
    """Memory of the host, of its object store or of a GPU that no node has enough of."""
    for group in wanted:
        for need, have, what, remedy in (
            (group.memory, [(n.total.get("memory"), n) for n in nodes], "memory", _smaller(group)),
            (group.store, [(n.total.get("object_store_memory"), n) for n in nodes],
             "object store, for one version of the weights", "start Ray with a larger one"),
            (group.device * 2**30, [(_device(n), n) for n in nodes if n.total.get("GPU")],
             "GPU memory", _smaller(group)),
        ):  # fmt: skip
            known = [(size, n) for size, n in have if size is not None]
            if not known or len(known) < len(have):
                continue
            size, most = max(known, key=lambda pair: pair[0])
            if need > size:
                kind = f" ({most.accelerator})" if what == "GPU memory" else ""
                return (
                    f"too little memory: a {group.role} needs {need / 2**30:.1f} GiB of {what}, "
                    f"and the largest node, {most.name}{kind}, has {size / 2**30:.1f}; {remedy}"
                )
    return None


def _too_much(cfg: RunConfig, wanted: Sequence[Group], nodes: Sequence[Node]) -> str | None:
    """More in all than the whole cluster has, were it empty."""
    total = {n.id: n.total for n in nodes}
    for name in RESOURCES:
        if arrange(cfg, wanted, total, nodes, (name,)) is None:
            return (
                f"too {'little memory' if name == 'memory' else f'few {name}s'}: "
                f"{_asked(wanted, name)}, the cluster has {_offer(nodes, total, name)}"
                f"{_fitting(cfg, wanted, nodes, total)}"
            )
    return None


def _busy(cfg: RunConfig, wanted: Sequence[Group], nodes: Sequence[Node]) -> str | None:
    """It would fit, but others hold what it needs."""
    total, free = {n.id: n.total for n in nodes}, {n.id: n.free for n in nodes}
    if arrange(cfg, wanted, total, nodes) is None:
        return None
    short = [n for n in RESOURCES if arrange(cfg, wanted, free, nodes, (n,)) is None]
    name = short[0] if short else "CPU"
    return (
        f"the cluster is busy: {_asked(wanted, name)}, and of {_offer(nodes, total, name)} others "
        f"leave {_offer(nodes, free, name)}; wait until they end"
        f"{_fitting(cfg, wanted, nodes, free).replace(';', ', or make do:')}"
    )


def _fitting(
    cfg: RunConfig,
    wanted: Sequence[Group],
    nodes: Sequence[Node],
    offered: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """`; rollout.workers=… would fit`: the nearest numbers of processes that do; "" if none."""
    offered = offered or {n.id: n.total for n in nodes}

    def fits(workers: int, ranks: int) -> bool:
        counts = {WORKER: workers, RANK: ranks}
        smaller = [replace(g, count=counts.get(g.role, g.count)) for g in wanted]
        return arrange(cfg, smaller, offered, nodes) is not None

    for workers, ranks in _fewer(cfg, fits):
        keys = {
            "rollout.workers": (workers, cfg.rollout.workers),
            "learner.ranks": (ranks, cfg.learner.ranks),
        }
        changed = [f"{key}={new}" for key, (new, old) in keys.items() if new != old]
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
    fair = [n for n in range(ranks, 0, -1) if batch % n == 0]
    fair = fair if batch else sorted({ranks, ranks // 2, ranks // 4, 1} - {0}, reverse=True)
    for fewer in (ranks, *(n for n in fair if n != ranks and fits(workers, n)), *fair):
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


def _asked(wanted: Sequence[Group], name: str | None = None) -> str:
    """`2 rollout workers x 4 and 4 learner ranks x 1 need 12 GPU`."""
    parts = [g for g in wanted if name is None or g.amount(name)]
    said = [
        g.role if g.role == DATA else f"{g.count} {g.role}{'s' if g.count > 1 else ''}"
        for g in parts
    ]
    if name is None:
        return _list(said)
    each = [
        f"{text} x {_amount(g.amount(name), name)}" for text, g in zip(said, parts, strict=True)
    ]
    need = sum(g.count * g.amount(name) for g in parts)
    unit = " GiB" if name == "memory" else f" {name}"
    return f"{_list(each)} need {_amount(need, name)}{unit}"


def _offer(
    nodes: Sequence[Node], offered: Mapping[str, Mapping[str, float]], name: str
) -> str:  # fmt: skip
    amounts = {n.name: offered[n.id].get(name, 0.0) for n in nodes}
    amounts = {node: size for node, size in amounts.items() if size} or amounts
    listed = [f"{node} {_amount(size, name)}" for node, size in amounts.items()]
    total = _amount(sum(amounts.values()), name)
    return f"{total} ({_list(listed)})" if len(amounts) > 1 else f"{total} ({next(iter(amounts))})"


def _amount(size: float, name: str) -> str:
    return f"{size / 2**30:.1f}" if name == "memory" else f"{size:g}"


def _smaller(group: Group) -> str:
    if group.role == RANK:
        return "learner.zero_stage=3 over more ranks, fewer learner.microbatch_tokens or a smaller model would fit"  # noqa: E501
    return "a larger rollout.tensor_parallel on GPUs, less rollout.kv_cache_gib or a smaller model would fit"  # noqa: E501


def _device(node: Node) -> float | None:
    size = GPU_GIB.get(node.accelerator or "")
    return size * 2**30 if size else None


def _names(nodes: Sequence[Node]) -> str:
    return _list([node.name for node in nodes])


def _list(parts: Sequence[str]) -> str:
    """`a, b and c`, or the first few and how many more."""
    shown = list(parts)
    if len(shown) > NAMED:
        shown = [*shown[:NAMED], f"{len(parts) - NAMED} more"]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
