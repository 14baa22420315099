"""A terminal that is closed ends nothing: what is still said goes nowhere."""

import os
import pty
import subprocess
import sys

import pytest

SCRIPT = """
import signal, sys, time
from cluster.terminal_output import outlive_the_terminal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
{begin}
print("ready", sys.stdout.isatty(), flush=True)
while sys.stdin.isatty():
    time.sleep(0.01)
for word in ("one", "two"):
    print(word, flush=True)
    print(word, file=sys.stderr)
sys.exit(7)
"""


@pytest.mark.parametrize(("begin", "code"), [("outlive_the_terminal()", 7), ("", 1)])
def test_a_command_goes_on_without_its_terminal(begin, code):
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-c", SCRIPT.format(begin=begin)])
    said = b""
    while b"ready True" not in said:
        said += os.read(terminal, 100)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code


def test_what_the_terminal_shows_is_as_before():
    script = (
        "import sys; from cluster.terminal_output import *; outlive_the_terminal()\n"
        "print('grüße', flush=True); print('bad', file=sys.stderr); sys.stdout.write('no end')\n"
    )
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-c", script])
    shown = b""
    try:
        while part := os.read(terminal, 1000):
            shown += part
    except OSError:
        pass  # its end
    os.close(terminal)
    os.waitpid(pid, 0)
    assert shown.decode() == "grüße\r\nbad\r\nno end"


def test_files_and_pipes_are_left_alone(tmp_path):
    script = (
        "import sys; from cluster.terminal_output import *; before = sys.stdout, sys.stderr\n"
        "outlive_the_terminal(); assert (sys.stdout, sys.stderr) == before; print('there')\n"
    )
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"there\n"


def test_other_errors_are_raised():
    script = (
        "from cluster.terminal_output import TerminalOutput\n"
        "output = TerminalOutput('/dev/full', 'wb')\n"
        "try:\n output.write(b'x')\nexcept OSError as error:\n raise SystemExit(error.errno)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 28
