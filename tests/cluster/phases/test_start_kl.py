"""KL to the start: nothing at the start, by hand elsewhere, and the same for who names the run."""

from dataclasses import replace

import numpy as np
import pytest

from cluster.failures import RunFailure
from cluster.phases import start_kl
from cluster.phases.start_kl import StartKL
from learner.engine import TrainingEngine
from learner.training_trajectory import prepare, score
from rollout.block_files import parts, read_block
from tests.support.learner import config, save_llama, trajectories


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(the start, what became of it)."""
    root = tmp_path_factory.mktemp("start_kl")
    folders = [save_llama(root / str(seed), tied=False, seed=seed) for seed in range(2)]
    engines = [TrainingEngine(f, config(), config().ppo.optimizer, 1, False) for f in folders]
    yield engines
    for engine in engines:
        engine.close()


def logprobs(engine, played):
    """Of all action tokens, a trajectory each."""
    prepared = prepare(played, "turn")
    score(engine, prepared, 1.0)
    return [t.proximal_logprobs for t in prepared]


def sampled_by(engine, played):
    """The trajectories with the engine's own log-probabilities, as version 0."""
    made = []
    for t, known in zip(played, logprobs(engine, played), strict=True):
        begin, segments = 0, []
        for s in t.segments:
            end = begin + int(s.action_mask.sum())
            behavior = np.zeros(len(s.token_ids), np.float32)
            behavior[s.action_mask] = known[begin:end]
            versions = np.where(s.action_mask, 0, -1).astype(np.int32)
            segments.append(replace(s, behavior_logprobs=behavior, policy_versions=versions))
            begin = end
        made.append(replace(t, segments=tuple(segments)))
    return made


def test_it_is_nothing_at_the_start_and_the_estimate_by_hand_elsewhere(models, tmp_path):
    start, current = models
    played = sampled_by(start, trajectories(12))
    mine = StartKL(tmp_path, config(), 0)
    assert mine.kl(start) is None
    mine.keep(played)
    assert 0 <= mine.kl(start) < 1e-9
    gaps = np.concatenate(logprobs(current, played)) - np.concatenate(logprobs(start, played))
    expected = np.mean(np.exp(gaps.astype(np.float64)) - 1 - gaps)
    assert expected > 0.01
    assert mine.kl(current) == pytest.approx(expected, rel=1e-4)
    assert StartKL(tmp_path, config(), 0).kl(current) == mine.kl(current)


@pytest.mark.parametrize(
    ("most", "samples"), [(6, 2), (8, 2), (9, 3), (12, 4), (256, 4), (3, 1), (2, 1)]
)
@pytest.mark.parametrize("cut", [12, 5])
def test_as_many_of_each_question_are_kept_whichever_rank_has_them(
    tmp_path, monkeypatch, most, samples, cut
):
    monkeypatch.setattr(start_kl, "EPISODES", most)
    played = trajectories(12)
    assert [t.group_id for t in played] == [i // 4 for i in range(12)], "three questions"
    given = played[:cut], played[cut:]
    shares = [[(t.group_id, t.id) for t in own] for own in given]
    monkeypatch.setattr(start_kl.distributed, "all_gather", lambda _: shares)
    for rank, own in enumerate(given):
        StartKL(tmp_path, config(), rank).keep(own)
    kept = [t.id for file in parts(tmp_path / "start") for t in read_block(file)]
    assert kept == [t.id for i, t in enumerate(played) if i % 4 < samples]


def test_a_start_played_again_on_fewer_ranks_holds_no_episode_twice(tmp_path, monkeypatch):
    played = trajectories(8)
    shares = [[(t.group_id, t.id) for t in own] for own in (played[:4], played[4:])]
    monkeypatch.setattr(start_kl.distributed, "all_gather", lambda _: shares)
    two = replace(config(), learner=replace(config().learner, ranks=2))
    for rank in (1, 0):
        StartKL(tmp_path, two, rank).keep(played[4 * rank : 4 * rank + 4])
    assert len(parts(tmp_path / "start")) == 2
    StartKL(tmp_path, config(), 0).keep(played)
    kept = [t.id for file in parts(tmp_path / "start") for t in read_block(file)]
    assert sorted(kept) == sorted(t.id for t in played)


def test_no_rank_reads_the_start_before_all_have_written_it(tmp_path, monkeypatch):
    written, played = [], trajectories(8)
    monkeypatch.setattr(
        start_kl.distributed, "barrier", lambda: written.append(len(parts(tmp_path / "start")))
    )
    two = replace(config(), learner=replace(config().learner, ranks=2))
    for rank in (1, 0):
        StartKL(tmp_path, two, rank).keep(played[4 * rank : 4 * rank + 4])
    assert written == [1, 2], "each rank says when its own is there"


def test_a_start_that_is_damaged_ends_the_run_in_one_line(tmp_path):
    mine = StartKL(tmp_path / "run", config(), 0)
    mine.keep(trajectories(4))
    (tmp_path / "run" / "start" / "pictures-0.arrow").unlink()
    with pytest.raises(RunFailure, match=r"run/start/pictures-0.arrow is missing$"):
        mine.kl(None)
