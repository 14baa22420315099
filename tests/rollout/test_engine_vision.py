"""The real engine with pictures: parity, every kind of weight on a picture seen before, limits."""

import asyncio

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from envs.registry import make
from learner.model import weight_kind
from rollout.bucket import buckets, pack
from rollout.episode import EpisodeLimits, EpisodeRequest, run_episode
from rollout.renderer import FORBIDDEN_BIAS, Renderer
from tests.conftest import BRIEF, VISION
from tests.support.environments import InProcess
from tests.support.slow import fast

KINDS = ("embedding", "attention", "mlp", "norm", "head", "vision", "projector")
LIMIT = 1e-4
GP = "cardinal/GeneralPoints-v0"


@pytest.fixture(scope="module")
def renderer(vision_model):
    return Renderer.load(vision_model)


@pytest.fixture
def model(vision_engine, vision_model):
    """The engine's model in transformers; the engine gets its weights back afterwards."""
    loaded = AutoModelForImageTextToText.from_pretrained(vision_model)
    yield loaded
    send(vision_engine, AutoModelForImageTextToText.from_pretrained(vision_model), 0)


def episodes(engine, renderer, n=16, limits=None, **settings):
    loop, e = engine
    limits = limits or EpisodeLimits(answer_tokens=12, context_tokens=128, episode_deadline_s=60)

    async def all_of_them():
        return await asyncio.gather(
            *(
                run_episode(
                    EpisodeRequest(str(i), "v", i, i, sampling_seed=i),
                    InProcess(make(GP, BRIEF | VISION | settings)),
                    e,
                    renderer,
                    limits,
                )
                for i in range(n)
            )
        )

    return loop.run(all_of_them())


def difference(engine, model, renderer, trajectories):
    """Mean absolute difference of log-probabilities between the engine and transformers."""
    gaps = []
    for segment in (s for t in trajectories for s in t.segments):
        ids = torch.from_numpy(segment.token_ids.astype(np.int64))[None]
        with torch.no_grad():
            logits = model(input_ids=ids, **renderer.processor.inputs(segment.pictures)).logits[0]
        logits[:, list(engine[1].settings.forbidden)] += FORBIDDEN_BIAS
        at = np.flatnonzero(segment.action_mask)
        picked = logits.log_softmax(-1)[at - 1, ids[0, at]].numpy()
        gaps.append(np.abs(picked - segment.behavior_logprobs[at]))
    return float(np.concatenate(gaps).mean())


def send(engine, model, version, keep=lambda name: True):
    loop, e = engine
    named = [(n, p) for n, p in model.named_parameters() if keep(n)]
    loop.run(e.receive(version, [pack(group) for group in buckets(named, 1 << 16)]))


def perturb(model, kind):
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if weight_kind(name, model) == kind:
                noise = torch.randn_like(parameter)
                parameter.add_(0.5 * parameter.abs().mean().clamp(min=0.02) * noise)


def test_retries_keep_picture_and_tokens_together(vision_engine, model, renderer):
    played = episodes(vision_engine, renderer)
    assert all(t.end == "truncated" and len(t.segments) == 1 for t in played), played[0].failure
    for t in played:
        (segment,) = t.segments
        assert len(segment.turns) == 3
        assert len(segment.pictures) == 1
        assert (segment.token_ids == renderer.processor.token_id).sum() == 16
        sampled = segment.token_ids[segment.action_mask]
        assert not set(sampled.tolist()) & set(renderer.forbidden)
    assert len({t.segments[0].pictures[0].key for t in played}) > 10
    assert difference(vision_engine, model, renderer, played) < 1e-5


@pytest.mark.parametrize("kind", fast(("vision", "projector"), KINDS))  # the others: test_engine
def test_every_kind_of_weight_arrives_on_pictures_seen_before(vision_engine, model, renderer, kind):
    def gap():  # always the same pictures, so that features of old weights would be in the cache
        return difference(vision_engine, model, renderer, episodes(vision_engine, renderer, n=6))

    assert gap() < LIMIT
    perturb(model, kind)
    assert gap() > 3 * LIMIT, "the perturbation is visible"
    send(vision_engine, model, 1, keep=lambda name: weight_kind(name, model) != kind)
    assert gap() > 3 * LIMIT, f"{kind} was left out"
    send(vision_engine, model, 2)
    assert gap() < LIMIT


def test_features_of_old_weights_would_be_noticed(vision_engine, model, renderer, monkeypatch):
    """With the caches kept, the engine answers from features of the old vision tower."""
    _, e = vision_engine
    episodes(vision_engine, renderer, n=6)
    perturb(model, "vision")
    pause = e._llm.pause_generation
    monkeypatch.setattr(
        e._llm, "pause_generation", lambda **_: pause(mode="keep", clear_cache=False)
    )
    send(vision_engine, model, 1)
    played = episodes(vision_engine, renderer, n=6)
    assert difference(vision_engine, model, renderer, played) > 3 * LIMIT
    monkeypatch.undo()
    send(vision_engine, model, 2)
    played = episodes(vision_engine, renderer, n=6)
    assert difference(vision_engine, model, renderer, played) < LIMIT


def test_a_context_too_long_truncates_the_episode(vision_engine, renderer):
    """Never inside a picture: what is left holds all of its tokens."""
    limits = EpisodeLimits(answer_tokens=12, context_tokens=60, episode_deadline_s=60)
    for t in episodes(vision_engine, renderer, n=4, limits=limits):
        assert t.end == "truncated"
        assert t.failure == ""
        counts = [(s.token_ids == renderer.processor.token_id).sum() for s in t.segments]
        assert counts == [16]


def test_a_first_prompt_over_the_context_fails_the_episode(vision_engine, renderer):
    limits = EpisodeLimits(answer_tokens=12, context_tokens=20, episode_deadline_s=60)
    for t in episodes(vision_engine, renderer, n=4, limits=limits):
        assert (t.end, t.segments) == ("failed", ())
        assert "20" in t.failure
