"""The program ends with one line and the right code, whenever Ctrl-C comes and who ever reads."""

import subprocess
import sys

import pytest

from cluster.cli import main
from configs.paths import ROOT


class Interrupted:
    """An import during which Ctrl-C is pressed."""

    def find_spec(self, name, path, target=None):
        if name == "cluster.command_line":
            raise KeyboardInterrupt


def test_ctrl_c_during_the_imports_is_one_line(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "cluster.command_line", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert main(["check", "gp_l"]) == 130
    assert capsys.readouterr().err == "cardinal: interrupted\n"


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
