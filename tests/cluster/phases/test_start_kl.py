"""KL to the start: nothing at the start, by hand elsewhere, and the same for who names the run."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from cluster.failures import RunFailure
from cluster.phases import start_kl
from cluster.phases.start_kl import StartKL
from learner.engine import TrainingEngine
from learner.training_trajectory import prepare, score
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


def test_a_few_episodes_are_kept(models, tmp_path, monkeypatch):
    start, current = models
    monkeypatch.setattr(start_kl, "EPISODES", 4)
    played = sampled_by(start, trajectories(12))
    few, same = StartKL(tmp_path / "few", config(), 0), StartKL(tmp_path / "same", config(), 0)
    for folder, one, episodes in (("few", few, played), ("same", same, played[:4])):
        (tmp_path / folder).mkdir()
        one.keep(episodes)
    assert few.kl(current) == same.kl(current)


def test_the_ranks_keep_that_number_together(tmp_path, monkeypatch):
    monkeypatch.setattr(start_kl, "EPISODES", 6)
    cfg = config()
    cfg = replace(cfg, learner=replace(cfg.learner, ranks=2))
    StartKL(tmp_path, cfg, 1).keep(trajectories(12))
    with pa.ipc.open_file(str(tmp_path / "start" / "trajectories-1.arrow")) as kept:
        assert kept.get_batch(0).num_rows == 3


def test_a_start_that_is_damaged_ends_the_run_in_one_line(tmp_path):
    mine = StartKL(tmp_path / "run", config(), 0)
    mine.keep(trajectories(4))
    (tmp_path / "run" / "start" / "pictures-0.arrow").unlink()
    with pytest.raises(RunFailure, match=r"run/start/pictures-0.arrow is missing$"):
        mine.kl(None)
