"""The learner's side of a run without a model: what happens is noted in one list."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

from cluster.cursor import Cursor


class FakeEngine:
    """Counts what a phase does with its engine."""

    def __init__(self, done):
        self._done = done

    def export(self, folder):
        self._done.append(f"export {folder.rsplit('/', 1)[-1]}")

    def close(self):
        self._done.append("close")

    def perturb(self, kind, seed):
        self._done.append(f"perturb {kind}")
        return kind != "head"  # as if the head were tied

    def restore(self):
        self._done.append("restore")


class FakeRank:
    """A LearnerRank: keeps records in a list, and its cursor in memory."""

    def __init__(self, cfg, folder, rank=0):
        self.cfg, self.rank, self.version, self.cursor = cfg, rank, 0, Cursor()
        self.checkpoints, self.log = folder, None
        self.done, self.records, self.opened = [], [], []
        self.job = SimpleNamespace(cfg=cfg, folder=str(folder), model="initial", workers=[])
        self.job.demonstrations = SimpleNamespace(rows=16, dropped=3)

    def open_engine(self, folder, optimizer, steps, value):
        self.done.append("build")
        self.opened.append((folder, steps, value))
        return FakeEngine(self.done)

    def open_reference(self, folder):
        self.opened.append(("reference", folder))
        return "reference"

    def checkpoint(self, engine, cursor):
        self.done.append("checkpoint")
        self.move(cursor)

    def move(self, cursor):
        self.cursor = cursor

    def write(self, kind, **fields):
        self.records.append({"kind": kind, **fields})

    def of(self, kind):
        return [record for record in self.records if record["kind"] == kind]

    @contextmanager
    def phase(self, name):
        yield


class FakePublisher:
    def __init__(self, rank):
        self._rank = rank

    def publish(self, engine):
        self._rank.done.append("publish")
        return 0.5

    def sleep_engines(self):
        self._rank.done.append("sleep")


class FakeCollector:
    """Every collection gives the same two trajectories."""

    def __init__(self, rank):
        self._rank, self.collected = rank, []

    def collect(self, requests, version):
        self._rank.done.append("play")
        self.collected.append((requests, version))
        return {"failed": 1, "running": 2.0}

    def fetch(self):
        return ["a", "b"]


class FakeEvaluation:
    def __init__(self, rank):
        self._rank, self.runs = rank, []

    def run(self, engine, stage, update=0, step=0):
        self._rank.done.append(f"evaluate {stage}")
        self.runs.append((stage, update, step))
