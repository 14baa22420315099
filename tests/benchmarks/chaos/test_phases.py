"""The moments of a sync, as they are seen from outside its processes."""

from __future__ import annotations

import os
from itertools import pairwise
from types import SimpleNamespace

import pytest

from benchmarks.chaos import phases
from benchmarks.chaos.phases import LOADS, NONE, SYNC, WRITTEN, weights


@pytest.fixture
def core(tmp_path):
    """An engine's process and its actor's: a /proc in which nothing is open."""
    for pid in "67":
        (tmp_path / pid / "fd").mkdir(parents=True)
        os.symlink("/dev/null", tmp_path / pid / "fd" / "0")
        os.symlink("/dev/null", tmp_path / pid / "fd" / "1")
    return SimpleNamespace(pid=7, ppid=lambda: 6)


def test_weights_are_written_by_the_actor_and_mapped_by_the_engine(core, tmp_path):
    assert weights(core, tmp_path) == NONE
    os.symlink("/dev/shm/cardinal-w-abc", tmp_path / "6" / "fd" / "5")
    assert weights(core, tmp_path) == WRITTEN
    for name in "34":
        os.symlink("/dev/shm/cardinal-w-abc", tmp_path / "7" / "fd" / name)
    assert weights(core, tmp_path) == LOADS


def test_the_object_store_stays_mapped_and_is_open_while_it_is_loaded(core, tmp_path):
    folder = tmp_path / "7" / "fd"
    os.symlink("/dev/shm/plasmaAb1 (deleted)", folder / "3")
    assert weights(core, tmp_path) == NONE
    os.symlink("/dev/shm/plasmaAb1 (deleted)", folder / "4")
    assert weights(core, tmp_path) == LOADS


def test_each_moment_of_a_sync_is_seen_once():
    looks = [NONE, WRITTEN, WRITTEN, LOADS, LOADS, WRITTEN, NONE]
    seen = {
        phase: [turned(before, now) for before, now in pairwise(looks)]
        for phase, turned in SYNC.items()
    }
    assert seen == {
        "sync begins": [True, False, False, False, False, False],
        "mid-sync": [False, False, True, True, False, False],
        "sync ends": [False, False, False, False, True, False],
    }


@pytest.mark.parametrize("phase", ["generating", "idle"])
@pytest.mark.parametrize(
    ("before", "after", "there"),
    [
        (NONE, NONE, True),
        (WRITTEN, NONE, False),  # what it did was a load
        (NONE, WRITTEN, False),  # a load is next
        (LOADS, NONE, False),
        (NONE, LOADS, False),
    ],
)
def test_an_engine_generates_or_is_idle_only_between_syncs(
    monkeypatch, phase, before, after, there
):
    run, looks = SimpleNamespace(processes=lambda part: ["engine 0", "engine 1"]), []

    def works(core):
        looks.append(core)
        return phase == "generating"

    monkeypatch.setattr(phases, "weights", lambda core: after if looks else before)
    monkeypatch.setattr(phases, "_works", works)
    assert phases._look(run, phase, 1)() == there
    assert set(looks) <= {"engine 1"}
    monkeypatch.setattr(phases, "_works", lambda core: phase != "generating")
    assert not phases._look(run, phase, 1)()
