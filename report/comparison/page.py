"""A comparison of runs, in the terminal and as `compare.html`."""

from __future__ import annotations

from html import escape
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from report.comparison.runs import ABSENT, Comparison, Difference, Row
from report.evaluation import MEASURES, WITHIN, Headline, episodes_of
from report.html import document, section, table
from report.study.verdicts import bounds, signed
from report.terminal import Terminal

SUCCESS, KEYS, SPEED = "Success", "Configuration keys that differ", "Speed"
Lines = list[list[str]]  # of a table, its head first


def print_comparison(found: Comparison, console: Console | None = None) -> None:
    """Print the tables of a comparison."""
    console = console or Terminal()
    for title, lines in _tables(found).items():
        console.print(title, style="bold")  # a table's own title breaks at the table's width
        shown = Table()
        for name in lines[0]:
            shown.add_column(Text(name))  # a Text, so that brackets are no markup
        for cells in lines[1:]:
            shown.add_row(*map(Text, cells))
        console.print(shown)
    console.print(_note(found), markup=False, highlight=False, soft_wrap=True)


def write_comparison(found: Comparison, file: Path) -> None:
    """Write the page of a comparison, one file without network."""
    parts = [
        section(title, table(map(escape, lines[0]), (map(escape, cells) for cells in lines[1:])))
        for title, lines in _tables(found).items()
    ]
    names = [run.name for run in found.runs]
    body = "\n".join([f'<p class="lead">{escape(_note(found))}</p>', *parts])
    title = f"{names[0]} against {', '.join(names[1:])}"
    ends = {run.summary["status"] for run in found.runs}
    status = "finished" if ends == {"finished"} else "interrupted"
    facts = [f"{run.name}: {run.summary['status']}" for run in found.runs]
    file.write_text(document(title, "comparison", (status, status), facts, body), "utf-8")


def _tables(found: Comparison) -> dict[str, Lines]:
    """Title to head and rows; of what there is."""
    names = [run.name for run in found.runs]
    questions = found.runs[0].summary["questions"]
    success = [_success(row, questions) for row in found.rows]
    gains = [f"{name} − {names[0]}, points" for name in names[1:]]
    values = [[key, *map(_value, given)] for key, given in found.keys.items()]
    rates = [[what, *map(_rate, given)] for what, given in found.speed]
    tables = {
        SUCCESS: [["stage", "variant", "measure", "n", *names, *gains], *success],
        KEYS: [["key", *names], *values],
        SPEED: [["", *names], *rates],
    }
    return {title: lines for title, lines in tables.items() if len(lines) > 1}


def _note(found: Comparison) -> str:
    if not found.rows:
        return "None of these runs has an evaluation to compare."
    note = (
        "Shares in percent [95 % interval] of n episodes; differences from "
        f"{found.runs[0].name} in percentage points [95 % interval, paired by question] on the "
        "questions that both answered."
    )
    return note + (" No configuration key differs." if not found.keys else "")


def _success(row: Row, questions: str) -> list[str]:
    known = [shown for shown in row.headlines if shown]
    measures = dict.fromkeys(MEASURES[shown.measure] for shown in known)
    counts = dict.fromkeys(episodes_of(shown, questions) for shown in known)
    gains = [_gain(one, questions) for one in row.differences]
    cells = [*map(_share, row.headlines), *gains]
    return [row.stage, row.variant, " / ".join(measures), " / ".join(counts), *cells]


def _share(shown: Headline | None) -> str:
    if shown is None or shown.share is None:
        return ABSENT
    text = f"{100 * shown.share:.1f}"
    if shown.interval is not None:
        text += " [{:.1f}, {:.1f}]".format(*(100 * bound for bound in shown.interval))
    if shown.several and shown.within is not None:
        text += f" ({100 * shown.within:.1f} {WITHIN})"
    return text


def _gain(found: Difference | None, questions: str) -> str:
    if found is None:
        return ABSENT
    return f"{signed(found.share)} {bounds(found.interval)}, {found.questions:,} {questions}"


def _value(value: object) -> str:
    return "null" if value is None else str(value)


def _rate(value: float | None) -> str:
    return ABSENT if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
