"""What processes waited for a processor, as the kernel counts it."""

from __future__ import annotations

import pytest

from benchmarks.chaos import waits
from benchmarks.chaos.waits import Waits


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """A /proc; at(time, **milliseconds by process and thread) sets its times."""
    clock = [100.0]
    monkeypatch.setattr(waits.time, "time", lambda: clock[0])

    def at(time, **delays):
        clock[0] = time
        for name, milliseconds in delays.items():
            _, pid, thread = name.split("_")
            folder = tmp_path / pid / "task" / thread
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "schedstat").write_text(f"5 {milliseconds * 10**6} 3\n")

    return tmp_path, at


def test_the_longest_wait_of_a_thread_counts_and_processes_are_added(proc):
    folder, at = proc
    at(100.0, p_7_7=1000, p_7_8=5000, p_9_9=0)
    seen = Waits([7, 9, 11], folder)
    at(101.0, p_7_7=1200, p_7_8=5100, p_9_9=50)
    seen.look()
    at(102.0, p_7_8=9000, p_7_12=300)
    seen.look()
    assert seen.by(100.0) == 0.0
    assert seen.by(100.5) == pytest.approx(0.25)
    assert seen.by(101.5) == pytest.approx(4.05)
    assert seen.by(500.0) == pytest.approx(4.05), "as was seen last"


def test_those_of_this_machine_are_read():
    import os

    seen = Waits([os.getpid()])
    seen.look()
    assert seen.by(0.0) >= 0.0
    assert seen._delays(os.getpid())
