"""The command `cardinal`: arguments in, one of cluster/commands/ run, an exit code out.

Every error is one line. Heavy libraries are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import chain

from cluster.commands import (
    check_env,
    doctor,
    environments,
    halves,
    launches,
    results,
    runs,
    studies,
)
from cluster.commands.command import Parser
from cluster.exit_codes import say
from cluster.run.outcome import KNOWN, outcome
from cluster.run.stop_signals import raising_terminated

# As --help lists them.
GROUPS = (runs, halves, studies, results, launches, environments, check_env, doctor)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parse(_parser(), arguments)
    try:
        with raising_terminated():
            return options.command.run(options)
    except KNOWN as error:
        return say(*outcome(error))


def _parser() -> Parser:
    parser = Parser(
        prog="cardinal",
        description="SFT, then PPO, of language models on multi-turn environments, on Ray.",
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in chain.from_iterable(group.COMMANDS for group in GROUPS):
        text = command.run.__doc__
        subparser = subparsers.add_parser(command.name, help=text, description=text)
        subparser.set_defaults(command=command)
        for argument in command.arguments:
            argument(subparser)
    return parser


def _parse(parser: Parser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parsed arguments; key=value may also stand after options, where argparse leaves it over."""
    options, leftover = parser.parse_known_args(arguments)
    name = next((n for n in ("settings", "overrides") if hasattr(options, n)), None)
    wrong = [t for t in leftover if name is None or t.startswith("-") or "=" not in t]
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if name is not None:
        setattr(options, name, [*getattr(options, name), *leftover])
    return options
