"""A terminal that is closed ends nothing: what is still said goes nowhere."""

import os
import pty
import subprocess
import sys

import pytest

SCRIPT = """
import signal, sys, time
from cluster.lasting_output import outlive_readers
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


@pytest.mark.parametrize(("begin", "code"), [("outlive_readers()", 7), ("", 1)])
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
        "import sys; from cluster.lasting_output import *; outlive_readers()\n"
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


def run(script, **options):
    script = f"import os, sys\nfrom cluster.lasting_output import *\n{script}"
    return subprocess.run([sys.executable, "-c", script], check=False, **options)


def test_standard_output_that_is_a_file_or_a_pipe_is_left_alone():
    script = "before = sys.stdout\noutlive_readers()\nassert sys.stdout is before\nprint('there')"
    assert run(script, stdout=subprocess.PIPE).stdout == b"there\n"


def test_standard_error_may_be_a_file(tmp_path):
    with (tmp_path / "said").open("w") as file:
        run("outlive_readers()\nprint('grüße', file=sys.stderr)", stderr=file)
    assert (tmp_path / "said").read_text() == "grüße\n"


def broken_pipe():
    """The end of a pipe that nobody reads, as `tee`'s after Ctrl-C."""
    read, write = os.pipe()
    os.close(read)
    return write


def full_disk():
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("opened", [broken_pipe, full_disk])
@pytest.mark.parametrize(("begin", "code"), [("outlive_readers()", 7), ("", 1)])
def test_a_command_goes_on_without_a_reader_of_its_errors(opened, begin, code):
    words = "print('one', file=sys.stderr)\nprint('two', file=sys.stderr)\nsys.exit(7)"
    number = opened()
    assert run(f"{begin}\n{words}", stderr=number).returncode == code
    os.close(number)


def test_what_else_writes_there_meets_no_pipe_without_a_reader():
    """Ray's own code, and processes that are started later."""
    write = broken_pipe()
    script = "outlive_readers()\nprint('one', file=sys.stderr)\nos.write(2, b'two')\nsys.exit(7)"
    assert run(script, stderr=write).returncode == 7
    os.close(write)


def test_a_full_disk_takes_words_again_once_there_is_room(tmp_path):
    """What was said meanwhile is lost, and nothing else."""
    script = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "outlive_readers()\n"
        "full = lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, -1))\n"
        "full(0)\nprint('lost', file=sys.stderr)\nfull(-1)\nprint('there', file=sys.stderr)"
    )
    with (tmp_path / "said").open("w") as file:
        assert run(script, stderr=file).returncode == 0
    assert (tmp_path / "said").read_text() == "there\n"


def test_errors_that_are_not_borne_are_raised():
    script = (
        "output = LastingOutput('/dev/full', 'wb')\n"
        "try:\n output.write(b'x')\nexcept OSError as error:\n raise SystemExit(error.errno)\n"
    )
    assert run(script).returncode == 28
