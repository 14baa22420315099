"""A checked run as tables in the terminal: sizes, memory, first prompts, and the placement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.table import Table

from cluster.placement.layout import loss_ends_run
from cluster.placement.nodes import address_of
from cluster.placement.types import DATA, RANK, SLACK, WORKER, Node, Place, Plan
from cluster.preflight.check import CheckedRun
from cluster.preflight.demonstrations import DataSample
from report.terminal import Terminal

SHOWN = 5  # names of files that are not read


def show(run: CheckedRun) -> None:
    """Print all that is known of a run."""
    console, cfg = Terminal(markup=False), run.cfg  # names of folders and files may hold brackets
    console.print(f"{cfg.name}: {cfg.env.id}, preset {cfg.preset}, seed {cfg.seed}")
    console.print(
        f"SFT {cfg.sft.steps} steps of {cfg.sft.batch_size} demonstrations, then PPO "
        f"{cfg.ppo.updates} updates of {cfg.ppo.episodes} episodes ({cfg.ppo.estimator})"
    )
    parameters = [(part, f"{count:,}") for part, count in run.parameters.items()]
    prompts = [(name, str(tokens)) for name, tokens in run.longest_prompt.items()]
    _print("model", ("part", "parameters"), parameters)
    free = ("free here", run.available)
    _print("memory on this machine", ("part", "MiB"), _memory_rows(run.memory, free))
    if run.card is not None:
        moment, parts = run.card
        _print(f"a learner rank's GPU at its peak: {moment}", ("part", "MiB"), _memory_rows(parts))
    _print("first prompts", ("variant", "longest, tokens"), prompts)
    show_plan(run)
    if fixed := loss_ends_run(cfg, run.plan.gpu):
        console.print(fixed, soft_wrap=True)
    ends = f"an answer ends with {' or '.join(run.ends)}, which every checkpoint's"
    console.print(f"{ends} generation_config.json names", soft_wrap=True)
    if run.data is not None:
        console.print(_data_line(run.data, cfg.sft.max_tokens), soft_wrap=True)
    console.print(f"run folder {Path(cfg.cluster.root) / cfg.name}")


def _data_line(data: DataSample, most: int | None) -> str:
    over = f", {data.dropped} over sft.max_tokens={most} and dropped" if most is not None else ""
    read = "all" if data.read == data.rows else f"the first {data.read:,}"
    return (
        f"{data.rows:,} demonstrations in {data.files} file{'s' * (data.files > 1)}, {read} read; "
        f"of {data.rendered} rendered the longest has {data.longest} tokens{over}"
        f"{_ignored_words(data.ignored)}"
    )


def _ignored_words(names: Sequence[str]) -> str:
    """`; not read: README.md, images/`, a few of them."""
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    # A name that is no UTF-8 cannot be printed as it is.
    shown = [n.encode("utf-8", "backslashreplace").decode() for n in names[:SHOWN]]
    return f"; not read: {', '.join(shown)}{more}"


def show_plan(run: CheckedRun) -> None:
    """Print where each process would go."""
    where = address_of(run.cfg.cluster.address) or "a local Ray on this machine"
    header = ("node", "CPU", "GPU", "work")
    _print(f"placement on {where}", header, list(plan_rows(run.plan)))


def plan_rows(plan: Plan) -> Iterator[tuple[str, ...]]:
    """One row per node: its name, CPU, GPU, and which processes it gets."""
    for node in plan.nodes:
        here = [p for p in plan.places if p.node.id == node.id]
        work = "; ".join(filter(None, (_processes(role, here) for role in (WORKER, RANK, DATA))))
        kind = f" {node.accelerator}" if node.accelerator else ""
        cpus, gpus = _taken(node, here, "CPU"), _taken(node, here, "GPU")
        yield node.name, cpus, gpus + kind, work or "(no work)"


def _print(title: str, header: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(*header, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Terminal(markup=False).print(table)


def _memory_rows(memory: Mapping[str, int], *others: tuple[str, int]) -> list[tuple[str, str]]:
    parts = [(part, size) for part, size in memory.items() if size]
    sizes = [*parts, ("all", sum(memory.values())), *others]
    return [(part, f"{size / 2**20:,.0f}") for part, size in sizes]


def _processes(role: str, here: Sequence[Place]) -> str:
    """`learner ranks 0-1 (1 CPU + 1 GPU each)`, or "" without any."""
    places = [p for p in here if p.role == role]
    if not places or role == DATA:
        return "room for data tasks" if places else ""
    first = places[0]
    amount = f"{first.cpus:g} CPU" + (f" + {first.gpus:g} GPU" if first.gpus else "")
    colocated = ", on the ranks' GPUs" if first.colocated_ranks else ""
    each, plural = ("", "") if len(places) == 1 else (" each", "s")
    return f"{role}{plural} {_ranges([p.index for p in places])} ({amount}{each}{colocated})"


def _ranges(indices: Sequence[int]) -> str:
    """`0-3, 7`."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def _taken(node: Node, here: Sequence[Place], resource: str) -> str:
    """`2 of 8, 4 held by others`."""
    used = sum(p.cpus if resource == "CPU" else p.gpus for p in here)
    total, free = node.total.get(resource, 0.0), node.free.get(resource, 0.0)
    held = f", {total - free:g} held by others" if total - free > SLACK else ""
    return f"{used:g} of {total:g}{held}" if total else ""
