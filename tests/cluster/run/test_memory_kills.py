"""A process that the kernel killed explains a failure only where it was just before it."""

from pathlib import Path

import pytest

from cluster.run import memory_kills
from cluster.run.memory_kills import RECENT_S, MemoryKills, killed_for_memory


@pytest.fixture
def counters(monkeypatch, tmp_path):
    """Files of the container's account and the machine's."""
    files = tmp_path / "memory.events", tmp_path / "vmstat"
    monkeypatch.setattr(memory_kills, "COUNTERS", tuple(map(str, files)))
    return files


def test_the_containers_own_account_comes_first(counters):
    own, machine = counters
    assert killed_for_memory() == 0
    machine.write_text("pgfault 3\noom_kill 2\noom_kill_other 9\n")
    assert killed_for_memory() == 2
    own.write_text("low 0\noom 8\noom_kill 1\noom_group_kill 4\n")
    assert killed_for_memory() == 1
    own.write_text("low 0\n")  # of an old kernel
    assert killed_for_memory() == 2


def test_this_machine_has_an_account():
    lines = Path("/proc/vmstat").read_text().splitlines()
    assert any(line.startswith("oom_kill ") for line in lines)


def test_one_of_long_ago_explains_nothing(counters):
    now, count = [0.0], [7]

    def killed(more):
        count[0] += more
        counters[1].write_text(f"oom_kill {count[0]}\n")

    killed(0)
    kills = MemoryKills(lambda: now[0])
    assert not kills.recent()
    killed(1)
    assert kills.recent()
    for second in range(1, 200):
        now[0] = float(second)
        kills.look()
        assert kills.recent() == (second <= RECENT_S), second
        assert len(kills._looks) <= RECENT_S + 2
    killed(1)
    assert kills.recent()


def test_looks_that_come_late_keep_what_was_before(counters):
    now = [0.0]
    counters[1].write_text("oom_kill 0\n")
    kills = MemoryKills(lambda: now[0])
    counters[1].write_text("oom_kill 1\n")
    now[0] = 10 * RECENT_S
    kills.look()
    assert kills.recent()
    now[0] = 11 * RECENT_S + 1
    kills.look()
    assert not kills.recent()
