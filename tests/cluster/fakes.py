"""The learner's side of a run without a model: what happens is noted in one list."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

from cluster.checkpoints.cursor import Cursor
from cluster.failures import RunStopped
from cluster.stream.collect import Batch


class FakeToken:
    """The right to write a folder; `lost` is an error to raise at the next check."""

    def __init__(self, folder, lost=None):
        self.folder, self.lost, self.checks = str(folder), lost, 0

    def check(self):
        self.checks += 1
        if self.lost is not None:
            raise self.lost

    def of_next_group(self):
        self.check()
        return self


class FakeEngine:
    """Counts what a phase does with its engine."""

    def __init__(self, done):
        self._done = done

    def close(self, reference):
        self._done.append(f"close with {reference}" if reference else "close")

    def perturb(self, kind, seed):
        self._done.append(f"perturb {kind}")
        return kind != "head"  # as if the head were tied

    def restore(self):
        self._done.append("restore")


class FakeRank:
    """A LearnerRank: keeps records in a list, and its cursor in memory."""

    stopping = False

    def __init__(self, cfg, folder, rank=0):
        self.cfg, self.rank, self.version, self.cursor = cfg, rank, 0, Cursor()
        self.checkpoints, self.log = folder, None
        self.done, self.records, self.opened, self.optimizers = [], [], [], []
        token = FakeToken(folder)
        self.job = SimpleNamespace(
            cfg=cfg, token=token, folder=str(folder), model="initial", workers=[]
        )
        self.job.demonstrations = SimpleNamespace(rows=16, dropped=3)

    def open_engine(self, folder, optimizer, steps, value, frozen_steps=0):
        self.done.append("build")
        self.opened.append((folder, steps, value, frozen_steps))
        self.optimizers.append(optimizer)
        return FakeEngine(self.done)

    def open_reference(self, folder):
        self.opened.append(("reference", folder))
        return "reference"

    def checkpoint_due(self, number):
        every = self.cfg.learner.checkpoint_every
        return bool(every) and number % every == 0

    def checkpoint(self, engine, cursor):
        self.done.append("checkpoint")
        self.move(cursor)
        if self.stopping:
            raise RunStopped("the run was asked to stop")

    def checkpoint_before_evaluation(self, engine, cursor):
        """It would be written; a rank that crashes has it."""

    def settle(self):
        self.done.append("settle")

    def save(self, engine, cursor):
        self.move(cursor)

    def save_and_stop(self, engine, cursor):
        self.checkpoint(engine, cursor)
        raise RunStopped("the run was asked to stop")

    def keep_best(self, engine):
        self.done.append("keep best")

    def export(self, engine, name):
        self.done.append(f"export {name}")

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
        self._rank, self._sent = rank, False

    def publish(self, engine):
        self._rank.done.append("publish")
        return 0.5

    def begin(self, engine):
        self._rank.done.append("send")
        self._sent = True

    def finish(self):
        if self._sent:
            self._rank.done.append("arrived")
        self._sent = False
        return 0.5

    def sleep_engines(self):
        self._rank.done.append("sleep")


class FakeCollector:
    """Every collection gives the same two trajectories."""

    def __init__(self, rank):
        self._rank, self.collected, self.forgotten, self.released = rank, [], 0, 0
        self.written = []

    def begin(self, update, next_group, pack=None):
        self._rank.done.append("begin")
        self.begun, self.pack = (update, next_group), pack

    def forget_loads(self):
        self.forgotten += 1

    def updates(self, first):
        return range(first, self._rank.cfg.ppo.updates + 1)

    def take(self, update):
        self._rank.done.append("take")
        self.collected.append(update)
        return Batch(["a", "b"], 100 + update, {"failed": 1}, f"packed {update}")

    def loads(self):
        return {"running": 2.0, "busy_seconds": 0.25, "sampled_tokens": 6}

    def collect(self, requests):
        self._rank.done.append("play")
        self.collected.append(requests)

    def fetch(self):
        return ["a", "b"]

    def play_unproven(self, version, requests):
        return []

    def release(self):
        self.released += 1

    def write_batch(self, update, batch):
        self.written.append(update)


class FakeEvaluation:
    """One beside learning lasts until somebody waits for it; unless all end `at_once`."""

    at_once = False

    def __init__(self, rank):
        self._rank, self.runs, self._under_way = rank, [], None
        self.waited = 0.0

    def pop_waited(self):
        waited, self.waited = self.waited, 0.0
        return waited

    def run(self, engine, stage, cursor):
        self._play(stage, 0, 0)

    def begin(self, engine, cursor):
        played = cursor.phase, cursor.update, cursor.step
        self._play(*played)
        self._under_way = None if self.at_once else played
        return not self.at_once

    def _play(self, stage, update, step):
        assert self._under_way is None, "an evaluation before the end of another"
        self._rank.done.append(f"evaluate {stage}")
        self.runs.append((stage, update, step))

    def playing(self):
        return self._under_way is not None

    def finish(self, cursor):
        played, self._under_way = self._under_way, None
        if played is None:
            return cursor
        self._rank.done.append("evaluated")
        own = played == (cursor.phase, cursor.update, cursor.step)
        return replace(cursor, unevaluated=False) if own else cursor


class Crash(BaseException):
    """A process's sudden end; no `except Exception` stops it."""


class CrashingRank(FakeRank):
    """A rank on a folder that survives it, and that dies at its `crash`-th action.

    disk: {"cursor", "records"}; a new rank finds them as a resumed run does.
    """

    def __init__(self, cfg, folder, disk, crash=None):
        super().__init__(cfg, folder)
        self.cursor, self._disk, self._left = disk.get("cursor", Cursor()), disk, crash
        self.records = [r for r in disk.get("records", []) if self.cursor.covers(r)]
        disk["records"] = self.records
        self.version = self.cursor.update
        self.done = Actions(self)

    def act(self):
        """One more thing is about to happen."""
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise Crash

    def move(self, cursor):
        self.act()
        self._disk["cursor"] = self.cursor = cursor

    def checkpoint_before_evaluation(self, engine, cursor):
        self.move(replace(cursor, unevaluated=True))

    def write(self, kind, **fields):
        self.act()
        super().write(kind, **fields)


class Actions(list):
    """What a rank does, of which any may be its last."""

    def __init__(self, rank):
        super().__init__()
        self._rank = rank

    def append(self, action):
        self._rank.act()
        super().append(action)


class RecordedEvaluation(FakeEvaluation):
    """Writes a record for each of two variants, as the real one does."""

    def run(self, engine, stage, cursor):
        super().run(engine, stage, cursor)
        self._record(stage, 0, 0)

    def finish(self, cursor):
        if self._under_way is not None:
            self._record(*self._under_way)
        return super().finish(cursor)

    def _record(self, stage, update, step):
        for variant in ("train", "other"):
            self._rank.write("eval", stage=stage, update=update, step=step, variant=variant)


def after_every_crash(begin):
    """The records of a run that dies at any one action and is resumed, for each action.

    begin: (disk, crash) runs from the cursor to the end.
    """
    with_crash = []
    for crash in range(10_000):
        disk = {}
        try:
            begin(disk, crash)
        except Crash:
            begin(disk, None)
            with_crash.append(disk["records"])
        else:
            return with_crash
    raise AssertionError("it never ends")
