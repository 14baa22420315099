"""A run that is killed anywhere and resumed is bit for bit the run that was not.

Real phases, ranks, checkpoints, ledger and training engine on a tiny model; what is scripted are
the episodes: each is a function of its seed and of the weights that play it, and some fail.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cluster.checkpoints.cursor import Cursor
from cluster.phases import learner_rank, sft_phase
from cluster.phases.learner_rank import LearnerRank
from cluster.phases.ppo_phase import PPOPhase
from cluster.phases.sft_phase import SFTPhase
from cluster.stream.collect import Batch, Pack
from cluster.stream.ledger import Ledger
from cluster.stream.training_episodes import training_stream
from configs.schema import RunConfig
from learner.sft import sft_step
from report.metrics import Record, read
from rollout.trajectory import Trajectory
from rollout.trajectory_summary import TrajectorySummary, summarize
from tests.cluster.fakes import Crash, FakeEvaluation, FakePublisher, FakeToken
from tests.support.learner import config, demonstrations, save_llama, trajectory

STEPS, UPDATES, EPISODES = 4, 4, 6


@dataclass(frozen=True)
class Played:
    trajectory: Trajectory
    summary: TrajectorySummary


class Life:
    """A process: it dies at its n-th action."""

    def __init__(self, actions: int | None = None) -> None:
        self.left, self.actions = actions, 0

    def act(self) -> None:
        self.actions += 1
        if self.left is not None and self.actions > self.left:
            raise Crash


class LedgerCollector:
    """Gives a rank the batches of a real ledger, whose episodes end in an order of their own."""

    def __init__(self, rank: LearnerRank, life: Life, trained: list[tuple[int, str]]) -> None:
        self._rank, self._life, self._trained = rank, life, trained
        self._ledger: Ledger[Played] = Ledger()

    def begin(self, update: int, next_group: int, pack: Pack | None) -> None:
        self._ledger.begin(training_stream(self._rank.cfg, update, next_group))

    def updates(self, first: int) -> range:
        return range(first, self._rank.cfg.ppo.updates + 1)

    def take(self, update: int) -> Batch:
        while (batch := self._ledger.take(update)) is None:
            self._life.act()
            given = self._ledger.assign([self._rank.version], capacity=4)[0]
            self._ledger.finish([self._play(request) for request in reversed(given)])
        played = [result.trajectory for result in batch.results]
        self._trained += [(update, t.id) for t in played]
        return Batch(played, batch.next_group, {"failed": len(batch.failed)})

    def _play(self, request) -> Played:
        rng = np.random.default_rng([request.seed, request.sample_index, self._rank.version])
        made = replace(
            trajectory(int(rng.integers(100)), rng, version=self._rank.version),
            id=request.id,
            seed=request.seed,
            group_id=request.group_id,
        )
        if self._rank.cfg.ppo.dynamic_sampling and request.group_id % 3 == 0:
            segments = tuple(
                replace(s, turns=tuple(replace(turn, reward=0.0) for turn in s.turns))
                for s in made.segments
            )
            made = replace(made, segments=segments)
        if request.seed % 4 == 0:
            made = replace(made, segments=(), end="failed", failure="broken", bootstrap=False)
        return Played(made, summarize(made))

    def forget_loads(self) -> None:
        pass

    def loads(self) -> Record:
        return {}

    def release(self) -> None:
        pass

    def write_batch(self, update, batch) -> None:
        pass


@pytest.fixture
def job(tmp_path, monkeypatch):
    loaded = SimpleNamespace(forbidden=(47,), stop_ids=())
    monkeypatch.setattr(learner_rank, "Renderer", SimpleNamespace(load=lambda folder: loaded))
    monkeypatch.setattr(learner_rank, "wait_for", lambda call, *_: call)
    model = save_llama(tmp_path / "model")

    def make(name: str, cfg: RunConfig):
        folder = tmp_path / name
        return SimpleNamespace(
            cfg=cfg,
            token=FakeToken(folder),
            folder=str(folder),
            model=str(model),
            workers=[],
            buffer=SimpleNamespace(stopping=SimpleNamespace(remote=lambda: False)),
            demonstrations=SimpleNamespace(rows=16, dropped=0),
        )

    return make


def configured(**ppo) -> RunConfig:
    cfg = config(updates=UPDATES, episodes=EPISODES, minibatch=3, critic_warmup=1, **ppo)
    return replace(
        cfg,
        sft=replace(cfg.sft, steps=STEPS, batch_size=4, log_every=1),
        learner=replace(cfg.learner, checkpoint_every=1),
        cluster=replace(cfg.cluster, weight_proof=False),
    )


def run(job, life: Life, trained: list[tuple[int, str]], monkeypatch) -> None:
    """From the cursor to the end, or to the process's death."""

    def step(engine, batch, cfg, reference):
        life.act()
        return sft_step(engine, batch, cfg, reference)

    monkeypatch.setattr(sft_phase, "sft_step", step)
    rank = LearnerRank(job, 0)
    rank.done = []
    log, write = rank.log, rank.log.write
    monkeypatch.setattr(log, "write", lambda *a, **k: (life.act(), write(*a, **k)))
    parts = FakePublisher(rank), LedgerCollector(rank, life, trained), FakeEvaluation(rank)
    if rank.cursor.phase == "sft":
        batches = (demonstrations(4, seed) for seed in range(rank.cursor.step, STEPS))
        SFTPhase(rank, *parts, batches).run()
    if rank.cursor.phase == "ppo":
        PPOPhase(rank, *parts).run()
    assert rank.cursor == Cursor("done", update=UPDATES)


def learned(job) -> list[tuple[object, ...]]:
    """What each step and update came to, exactly."""
    found = []
    for record in read(job.folder):
        if record["kind"] in ("sft", "ppo"):
            place = record.get("step", record.get("update"))
            found.append((record["kind"], place, record["loss"], record["grad_norm"]))
    return found


def last_weights(job) -> bytes:
    with open(f"{job.folder}/checkpoints/ppo/model.safetensors", "rb") as file:
        return file.read()


GROUPS = {"estimator": "grpo", "group_size": 2, "dynamic_sampling": 3, "desired_kl": 1e-3}


@pytest.mark.parametrize(
    ("ppo", "kills", "last"),
    [({}, (0.2, 0.5, 0.65, 0.9), UPDATES + 2), (GROUPS, (0.7, 0.85), 2 * UPDATES)],
)
def test_killed_anywhere_and_resumed_it_is_bit_for_bit_the_same(job, monkeypatch, ppo, kills, last):
    smooth, life, wanted = job("smooth", configured(**ppo)), Life(), []
    run(smooth, life, wanted, monkeypatch)
    expected = learned(smooth)
    assert [place[:2] for place in expected] == [
        *(("sft", step) for step in range(1, STEPS + 1)),
        *(("ppo", update) for update in range(1, UPDATES + 1)),
    ]
    episodes = [id for _, id in wanted]
    assert len(set(episodes)) == len(episodes) == UPDATES * EPISODES
    # Others were played for failed ones and for groups without signal.
    assert episodes[-1].startswith(f"ppo/{last:06d}/")
    for killed in kills:
        killed_job, trained = job(f"killed-{killed}", configured(**ppo)), []
        with pytest.raises(Crash):
            run(killed_job, Life(int(killed * life.actions)), trained, monkeypatch)
        place = Cursor.load(Path(killed_job.folder) / "checkpoints")
        del trained[sum(update <= place.update for update, _ in trained) :]
        run(killed_job, Life(), trained, monkeypatch)
        assert learned(killed_job) == expected
        assert trained == wanted
        assert last_weights(killed_job) == last_weights(smooth)
