"""What a command is: a name, its arguments, and a function from parsed arguments to an exit code.

A file of commands makes one `Commands` and adds its functions with `@COMMANDS.add(...)`; the
function's docstring is its help.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn, TypedDict, Unpack

Run = Callable[[argparse.Namespace], int]
Argument = Callable[[argparse.ArgumentParser], object]  # adds itself to a command's parser


class ArgumentSettings(TypedDict, total=False):
    """What `ArgumentParser.add_argument` takes, as far as commands use it."""

    action: str
    choices: tuple[str, ...]
    default: object
    help: str
    metavar: str
    nargs: str
    required: bool
    type: Callable[[str], int]


def argument(name: str, **settings: Unpack[ArgumentSettings]) -> Argument:
    """An argument of a command, in argparse's terms."""
    return lambda parser: parser.add_argument(name, **settings)


@dataclass(frozen=True)
class Command:
    """One command; `run` does it and returns the exit code."""

    name: str
    run: Run
    arguments: tuple[Argument, ...]


class Commands:
    """The commands of one file, in the order of their definition."""

    def __init__(self) -> None:
        self._commands: list[Command] = []

    def __iter__(self) -> Iterator[Command]:
        return iter(self._commands)

    def add(self, name: str, *arguments: Argument) -> Callable[[Run], Run]:
        """Decorate the function of a command."""

        def decorate(run: Run) -> Run:
            self._commands.append(Command(name, run, arguments))
            return run

        return decorate


class Parser(argparse.ArgumentParser):
    """Errors on one line, as everywhere."""

    def error(self, message: str) -> NoReturn:
        """Print it and exit with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")
