"""A console whose reader has gone."""

import subprocess
import sys

from configs.paths import ROOT

SAID = (
    "from report.terminal import Terminal; out = Terminal()\n"
    "for line in range(3): out.print('a line')\n"
    "import sys; print('it goes on', file=sys.stderr); sys.exit(7)"
)


def test_what_nobody_reads_does_not_end_a_command():
    command = [sys.executable, "-c", SAID]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
    process.stdout.close()
    assert process.stderr.read() == "it goes on\n"
    assert process.wait(timeout=300) == 7
