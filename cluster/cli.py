"""The command `cardinal`: arguments in, one of cluster/commands/ run, an exit code out.

0 done; 1 the run failed; 2 what was asked for cannot be; 130 interrupted. Every error is one
line. Heavy libraries are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from itertools import chain

from cluster.commands import check_env, environments, halves, launches, results, runs, studies
from cluster.commands.command import Parser
from cluster.failures import PlacementError, RunFailure
from configs.load import ConfigError
from envs.base import EnvironmentFailure

GROUPS = (runs, halves, studies, results, launches, environments, check_env)  # as --help lists them


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parse(_parser(), arguments)
    try:
        return options.command.run(options)
    except (ConfigError, PlacementError) as error:
        return _say(str(error), 2)
    except (RunFailure, EnvironmentFailure) as error:
        return _say(str(error), 1)
    except OSError as error:  # a full disk, a folder that may not be written
        return _say(f"{type(error).__name__}: {error}", 1)
    except KeyboardInterrupt:
        hint = "; `cardinal resume RUN` goes on from the last checkpoint"
        return _say(f"interrupted{hint if options.command.resumable else ''}", 130)


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


def _say(line: str, code: int) -> int:
    print(f"cardinal: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code) if code == 130 else sys.exit(code)
