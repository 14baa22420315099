"""The program ends with one line and the right code, whenever a signal comes and who ever reads."""

import signal
import subprocess
import sys

import pytest

from cluster.cli import main
from configs.paths import ROOT


class Signalled:
    """An import during which a signal comes."""

    def __init__(self, number):
        self.number = number

    def find_spec(self, name, path, target=None):
        if name == "cluster.command_line":
            signal.raise_signal(self.number)


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 75, "ended by SIGTERM")],
)
def test_a_signal_during_the_imports_is_one_line(monkeypatch, capsys, number, code, line):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.delitem(sys.modules, "cluster.command_line", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Signalled(number), *sys.meta_path])
    assert main(["check", "gp_l"]) == code
    assert capsys.readouterr().err == f"cardinal: {line}\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["check", "nothing"], 2), (["check", "gp_l"], 0)]
)
def test_the_exit_code_stands_although_nobody_reads(arguments, code):
    """`cardinal … | true`: what is printed meets a closed pipe."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    said = process.stderr.read().decode()
    assert process.wait(timeout=300) == code
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
