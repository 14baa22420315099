"""The console of all commands: what nobody reads any more does not end them."""

from __future__ import annotations

import os
import sys

from rich.console import Console


class Terminal(Console):
    """Rich's console, on standard output; a closed pipe silences it, where rich exits with 1."""

    def on_broken_pipe(self) -> None:
        """Drop what is still to come: a run goes on, a command ends with its own code."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
