"""docs/scaling.md and its picture, from the rows of measured and predicted runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.scaling.hardware import Figure as Input
from benchmarks.scaling.hardware import figures
from benchmarks.scaling.layouts import LAYOUTS
from benchmarks.scaling.parts import Parts
from benchmarks.scaling.workload import Workload
from report.metrics import Record
from report.plots import MARKERS, STYLE

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito's
SEQUENCES, TOKENS = (1, 4, 16, 64), (256, 1024, 4096)
TEXT = Path(__file__).with_name("page.md")


def page(measured: Sequence[Record], predicted: Sequence[Record]) -> str:
    """All of docs/scaling.md."""
    layouts = [row for row in measured if row["name"] == "layout"]
    workload = Workload()
    filled = {
        "LAYOUTS": _layouts(layouts),
        "SIZES": _sizes(predicted),
        "SYNC": _sync(predicted),
        "MEMORY": _memory(predicted),
        "BREAKS": _breaks(predicted),
        "INPUTS": _inputs(),
        "PARTS": _parts(Parts.of(measured)),
        "GPU": predicted[0]["gpu"],
        "EPISODES": str(next(row["episodes"] for row in predicted if row["fits"])),
        "TOKENS": f"{workload.tokens():,.0f}",
        "ANSWERS": f"{sum(workload.answers()) / len(workload.answers()):,.0f}",
        "PROMPT": str(workload.prompt),
        "TURNS": str(workload.most_turns),
        "CAP": f"{workload.cap:,}",
    }
    text = TEXT.read_text()
    for name, value in filled.items():
        text = text.replace("{" + name + "}", value)
    return text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)])


def percent(share: float) -> str:
    """Without decimals."""
    return f"{100 * share:.0f} %"


def size(value: float) -> str:
    """Bytes a second, with a unit."""
    units = ("B/s", "kB/s", "MB/s", "GB/s", "TB/s")
    power = 0
    while value >= 1000 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {units[power]}"


def _layouts(rows: Sequence[Record]) -> str:
    missing = [name for name in LAYOUTS if name not in {row["layout"] for row in rows}]
    note = f"\n\n**Not measured yet**: {'; '.join(missing)}." if missing else ""
    if not rows:
        return note.strip()
    cells = []
    for row in rows:
        both = [
            f"{row[name]['measured']:.3g}, {row[name]['predicted']:.3g}"
            for name in ("update_s", "episodes_per_s")
        ]
        idle = [
            f"{percent(row[name]['measured'])}, {percent(row[name]['predicted'])}"
            for name in ("learner_idle", "engine_idle")
        ]
        cells.append([row["layout"], f"{row['cores']:.2f}", *both, *idle, f"{row['ratio']:.2f}"])
    head = ("layout", "cores left", "seconds an update", "episodes a second")
    return table([*head, "learner idle", "engine idle", "predicted / measured"], cells) + note


def _division(row: Record) -> str:
    if row["layout"] == "colocated":
        shared = ", offload" if row["offload"] else ""
        return f"shared, {row['engines']} × {row['tensor_parallel']}{shared}"
    return f"{row['ranks']} + {row['engines']} × {row['tensor_parallel']}"


def _sizes(rows: Sequence[Record]) -> str:
    cells = []
    for row in rows:
        head = [row["model"], str(row["gpus"])]
        if not row["fits"]:
            cells.append([*head, "–", "–", "–", "–", "–", "–", row["in_the_way"]])
            continue
        figures = [f"{row['episodes_per_s']:.3g}", f"{row['tokens_per_s']:,.0f}"]
        idle = [percent(row["learner_idle"]), percent(row["engine_idle"])]
        update = f"{row['update_s']:.3g}"
        cells.append([*head, _division(row), update, *figures, *idle, row["in_the_way"]])
    head = ("model", "GPUs", "ranks + engines × GPUs", "seconds an update", "episodes/s")
    return table([*head, "tokens/s", "learner idle", "engines idle", "in the way"], cells)


def _sync(rows: Sequence[Record]) -> str:
    cells = []
    for row in rows:
        if not row["fits"] or row["layout"] == "colocated":
            continue
        seconds = [
            f"{row['sync_s'][name]:.2g}" for name in ("nccl", "nccl over TCP", "object_store")
        ]
        network = row["network_bytes_per_s"]
        moved = [size(network[name]) for name in ("weights", "trajectories", "gathers")]
        cells.append([row["model"], str(row["gpus"]), *seconds, *moved])
    head = ("model", "GPUs", "nccl, s", "nccl over TCP, s", "object_store, s")
    return table([*head, "weights", "trajectories", "gathers, each rank"], cells)


def _memory(rows: Sequence[Record]) -> str:
    cells = []
    for row in rows:
        if row["fits"]:
            memory = row["memory_gib"]
            names = ("rank", "engine weights", "offloaded", "object store")
            found = [f"{memory[name]:.3g}" for name in names]
            cells.append([row["model"], str(row["gpus"]), *found])
    head = ("model", "GPUs", "a rank's GPU", "an engine's weights on a GPU")
    return table([*head, "offloaded on a node", "object store of a node"], cells)


def _breaks(rows: Sequence[Record]) -> str:
    """For each model: where it begins to fit, and from where more GPUs give less than half."""
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        fitting = [row for row in own if row["fits"]]
        if not fitting:
            lines.append(f"- **{model}** fits none of these: {own[-1]['in_the_way']}.")
            continue
        first = fitting[0]
        text = f"- **{model}** fits from {_gpus(first['gpus'])} on"
        if short := [row for row in own if not row["fits"]]:
            text += f" (on {_gpus(short[-1]['gpus'])}: {short[-1]['in_the_way']})"
        best = max(row["tokens_per_s"] / row["gpus"] for row in fitting)
        weak = next((r for r in fitting if r["tokens_per_s"] / r["gpus"] < best / 2), None)
        if weak is None:
            text += "; a GPU does at least half of its best up to the largest size"
        else:
            text += f"; from {_gpus(weak['gpus'])} on each does less than half of its best"
            text += f" (in the way: {weak['in_the_way']})"
        last = fitting[-1]
        text += f". At {_gpus(last['gpus'])}: {last['in_the_way']}."
        lines.append(text)
    return "\n".join(lines)


def _gpus(count: int) -> str:
    return f"{count} GPU{'s' if count > 1 else ''}"


def _inputs() -> str:
    rows: list[list[str]] = []
    for group, inputs in figures().items():
        rows += [
            [f"{group}, {name.replace('_', ' ')}", *_cells(found)] for name, found in inputs.items()
        ]
    return table(["input", "value", "unit", "source"], rows)


def _cells(found: Input) -> list[str]:
    return [f"{found.value:.4g}", found.unit, found.source]


def _parts(parts: Parts) -> str:
    """What was measured here, as rates and seconds."""
    engine, host = parts.engine, parts.host
    decoded = [f"{n / engine.decode_s(n, 0):,.0f}" for n in SEQUENCES]
    learned = [f"{t / parts.step.seconds(t, t):,.0f}" for t in TOKENS]
    numbers, sizes = (", ".join(map(str, each)) for each in (SEQUENCES, TOKENS))
    rows = [
        [f"an engine's tokens a second, {numbers} sequences at once", ", ".join(decoded)],
        ["a request, beside its tokens", f"{1e3 * engine.request_s:.2f} ms"],
        ["a token of a prompt", f"{1e6 * engine.prompt_token_s:.1f} µs"],
        ["threads that a full engine keeps busy", f"{engine.threads:.2f}"],
        [f"the learner's tokens a second, microbatches of {sizes}", ", ".join(learned)],
        ["scoring a token", f"{1e6 * parts.score.token_s:.1f} µs"],
        ["an optimizer step, beside its microbatches", f"{1e3 * parts.optimizer_s:.1f} ms"],
        [
            "an engine's pause for weights",
            f"{1e9 * parts.load_s / parts.weights_bytes:.1f} ns a byte",
        ],
        ["writing weights to the object store", f"{1e9 * host.put_byte_s:.2f} ns a byte"],
        ["a block in the trajectory buffer", f"{1e6 * host.block_s:.0f} µs"],
        ["each trajectory in it", f"{1e6 * host.buffered_s:.0f} µs"],
        ["each trajectory of a batch, on every rank", f"{1e6 * host.trajectory_s:.1f} µs"],
        ["each of a rank's own, in its update", f"{1e6 * host.own_trajectory_s:.0f} µs"],
        ["each of a rank's own, packed", f"{1e6 * host.fetch_s:.0f} µs"],
        ["an actor's call, one way", f"{1e6 * host.call_s:.0f} µs"],
    ]
    return table(["part", "measured here"], rows)


def draw(rows: Sequence[Record], file: Path) -> None:
    """Tokens a second and idle shares by GPUs, a line for each model."""
    fitting = [row for row in rows if row["fits"]]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.5, 4.2), dpi=160, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        throughput, each, idle = figure.subplots(1, 3)
        for i, model in enumerate(dict.fromkeys(row["model"] for row in fitting)):
            own = [row for row in fitting if row["model"] == model]
            gpus = [row["gpus"] for row in own]
            style: Record = {"color": COLORS[i % len(COLORS)], "ms": 4, "lw": 1.4}
            marked = style | {"marker": MARKERS[i % len(MARKERS)]}
            tokens = [row["tokens_per_s"] for row in own]
            throughput.plot(gpus, tokens, label=model, **marked)
            each.plot(gpus, [t / g for t, g in zip(tokens, gpus, strict=True)], **marked)
            idle.plot(gpus, [100 * row["learner_idle"] for row in own], **marked)
            idle.plot(gpus, [100 * row["engine_idle"] for row in own], ls=":", **style)
        throughput.set_title("Tokens trained on a second")
        throughput.set_yscale("log")
        throughput.legend()
        each.set_title("… of a GPU")
        each.set_yscale("log")
        idle.set_title("Idle, %: learner; dotted: engines")
        idle.set_ylim(0, 100)
        for axes in (throughput, each, idle):
            axes.set_xscale("log", base=2)
            axes.set_xlabel("GPUs")
            ticks = sorted({row["gpus"] for row in fitting})
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
        figure.savefig(file)
