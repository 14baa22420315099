"""Commands on what runs have left: eval, report, compare, trace."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from cluster.commands.command import Commands, argument
from cluster.commands.shared import (
    RUN_FOLDER,
    configuration_of,
    require_at_least,
    require_file,
    writing,
)
from cluster.environments import Settings
from configs.load import ConfigError, parse
from configs.schema import RunConfig

COMMANDS = Commands()


@COMMANDS.add(
    "eval",
    RUN_FOLDER,
    argument("settings", nargs="*", default=[], metavar="key=value", help="of the environment"),
    argument("--variant", help="one of the run's, or a new one made of key=value"),
    argument("--stage", choices=("start", "sft", "ppo")),
    argument("--episodes", type=int),
)
def eval_command(options: argparse.Namespace) -> int:
    """Evaluate a run's checkpoint on variants of its environment."""
    cfg = configuration_of(options.run)
    require_at_least(1, "--episodes", options.episodes)
    variants = _variants(cfg, options.variant, options.settings)
    from cluster.driver.evaluate_run import checkpoint, evaluate_run
    from cluster.preflight.early import refuse_evaluation

    folder = Path(options.run)
    _, model = checkpoint(folder, cfg, options.stage)
    refuse_evaluation(cfg, folder, model)
    return evaluate_run(folder, cfg, options.stage, variants, options.episodes)


def _variants(cfg: RunConfig, name: str | None, pairs: list[str]) -> dict[str, Settings]:
    """The run's own variants, one of them, or a new one made of key=value."""
    settings, known = parse(pairs), dict(cfg.eval.variants)
    if name is None:
        if settings:
            raise ConfigError(f"{pairs[0]} belongs to a variant: give --variant NAME")
        return known
    if name not in known and not settings:
        raise ConfigError(
            f"--variant {name}: the run has {', '.join(known)}; another one needs key=value"
        )
    return {name: known.get(name, {}) | settings}


@COMMANDS.add("report", argument("run", help="folder of a run or a study"))
def report_command(options: argparse.Namespace) -> int:
    """Write the report of a run's or a study's folder again."""
    from report.study.results import is_study

    if is_study(options.run):
        from report.study.page import write_study_report

        print(write_study_report(options.run))
        return 0
    configuration_of(options.run)
    from report.page import write_report

    write_report(options.run)
    print(Path(options.run) / "report.html")
    return 0


@COMMANDS.add(
    "compare",
    argument("runs", nargs="+", metavar="RUN", help="run folders; the first is compared with"),
    argument("--out", default="compare.html", help="page to write; compare.html otherwise"),
)
def compare_command(options: argparse.Namespace) -> int:
    """Show runs against each other: success, keys that differ, speed; and write a page of it."""
    folders = [Path(run).resolve() for run in options.runs]
    if len(folders) < 2:
        raise ConfigError(f"compare {options.runs[0]}: is one run; give two or more")
    if len(set(folders)) < len(folders):
        raise ConfigError(f"compare {' '.join(options.runs)}: names a run twice")
    for run in options.runs:
        configuration_of(run)
    require_file("--out", options.out)
    from report.comparison.page import print_comparison, write_comparison
    from report.comparison.runs import compare

    found = compare(options.runs)
    print_comparison(found)
    with writing(Path(options.out)):
        write_comparison(found, Path(options.out))
    print(options.out)
    return 0


@COMMANDS.add(
    "trace",
    RUN_FOLDER,
    argument("--updates", help="a number, FIRST-LAST or all; the last three otherwise"),
    argument("--out", help="file to write; trace.json in the run folder otherwise"),
    argument("--png", help="also draw the trace to this file"),
)
def trace_command(options: argparse.Namespace) -> int:
    """Write what every process did in some updates as a trace for Perfetto; print its shares."""
    configuration_of(options.run)
    for option, file in (("--out", options.out), ("--png", options.png)):
        if file:
            require_file(option, file)
    from report.spans import read_spans
    from report.trace import choose, shares, trace_events

    recorded = read_spans(Path(options.run))
    for sentence in recorded.left_out:
        print(sentence, file=sys.stderr)
    if options.png and Path(options.png).suffix != ".png":
        raise ConfigError(f"--png {options.png}: must end in .png")
    try:
        window = choose(recorded, options.updates)
    except ConfigError as error:
        raise ConfigError(f"{options.run}: {error}") from error
    out = Path(options.out or Path(options.run) / "trace.json")
    with writing(out):
        out.write_text(json.dumps(trace_events(recorded, window)))
    if options.png:
        from report.trace_picture import draw_trace

        with writing(Path(options.png)):
            draw_trace(recorded, window, Path(options.png))
    print(f"{window.name}, {window.end - window.begin:.1f} s")
    for (process, track), parts in shares(recorded, window).items():
        spent = ", ".join(f"{name} {share:.1%}" for name, share in parts.items())
        print(f"{process.name}, {track}: {spent}")
    print(f"{out}: open it at https://ui.perfetto.dev")
    return 0
