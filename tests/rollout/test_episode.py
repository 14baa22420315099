"""Episodes: tokens stay as sampled across turns, limits end as they should, failures are failed."""

import asyncio

import numpy as np
import pytest

from envs.registry import make
from rollout.engine import Completion, EngineFailure, RequestRefused
from rollout.episode import EpisodeLimits, EpisodeRequest, run_episode
from rollout.renderer import Renderer
from tests.support.environments import InProcess

LIMITS = EpisodeLimits(answer_tokens=16, context_tokens=128, episode_deadline_s=5)
GP = "cardinal/GeneralPoints-v0"


class ScriptedEngine:
    """A TokenGenerator that gives prepared answers and remembers its prompts."""

    def __init__(self, renderer, answers, stop=True):
        self.renderer, self.answers, self.stop = renderer, list(answers), stop
        self.prompts, self.caps, self.seeds = [], [], []

    async def generate(self, prompt_ids, *, max_tokens, temperature, seed, pictures=()):
        self.prompts.append(list(prompt_ids))
        self.caps.append(max_tokens)
        self.seeds.append(seed)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        ids = self.renderer.answer(answer)
        ids = ids if self.stop else ids[:-1]
        return Completion(
            prompt_ids, ids, [-0.5] * len(ids), [len(self.prompts)] * len(ids), self.stop
        )


@pytest.fixture(scope="module")
def renderer(tiny_model):
    return Renderer.load(tiny_model)


def run(renderer, answers, settings=None, limits=LIMITS, stop=True, env=None, **request):
    env = env or make(GP, {"prompt_style": "brief", "verify_iter": 3} | (settings or {}))
    engine = ScriptedEngine(renderer, answers, stop)
    episode = EpisodeRequest(**{"id": "a", "variant": "v", "seed": 3, "group_id": 3} | request)
    return asyncio.run(run_episode(episode, InProcess(env), engine, renderer, limits)), engine


def gold(seed=3):
    env = make(GP, {"prompt_style": "brief"})
    env.reset(seed=seed)
    return env.expert()


def test_a_retry_grows_the_same_segment(renderer):
    t, engine = run(renderer, ["1+1", gold()])
    (segment,) = t.segments
    assert t.question.endswith("= 24")
    assert t.end == "terminated"
    assert t.metrics["success"] == 1.0
    assert t.metrics["first_try"] == 0.0
    assert engine.prompts[1][: len(engine.prompts[0])] == engine.prompts[0]
    first, second = segment.turns
    assert segment.token_ids[: second.begin].tolist() == engine.prompts[1]
    assert segment.token_ids[first.begin : first.end].tolist() == renderer.answer("1+1")
    assert first.reward < 0 < second.reward
    assert set(segment.policy_versions[segment.action_mask]) == {1, 2}
    assert (segment.behavior_logprobs[segment.action_mask] == -0.5).all()
    assert (segment.behavior_logprobs[~segment.action_mask] == 0).all()
    assert engine.seeds[0] != engine.seeds[1]


def test_an_episode_renders_like_a_demonstration(renderer):
    """SFT and PPO see the same tokens for the same conversation."""
    t, _ = run(renderer, ["1+1", gold()])
    env = make(GP, {"prompt_style": "brief", "verify_iter": 3})
    first, _ = env.reset(seed=3)
    second, *_ = env.step("1+1")
    ids, mask = renderer.demonstration(
        [
            {"role": "user", "content": first["message"], "train": False},
            {"role": "assistant", "content": "1+1", "train": True},
            {"role": "user", "content": second["message"], "train": False},
            {"role": "assistant", "content": gold(), "train": True},
        ]
    )
    np.testing.assert_array_equal(ids, t.segments[0].token_ids)
    np.testing.assert_array_equal(mask, t.segments[0].action_mask)


def test_an_answer_cut_by_its_cap_is_graded_and_play_goes_on(renderer):
    t, engine = run(renderer, ["1+", gold()], stop=False)
    first = t.segments[0].turns[0]
    after = t.segments[0].token_ids[first.end :]
    assert t.end == "terminated"
    assert len(t.turns) == 2
    assert after[0] in renderer.stop_ids, "the template's own end of answer stands in"
    assert not t.segments[0].action_mask[first.end]
    assert engine.caps == [16, 16]


def test_only_an_exhausted_context_truncates(renderer):
    prompt = len(run(renderer, [gold()])[1].prompts[0])
    limits = EpisodeLimits(answer_tokens=16, context_tokens=prompt + 6, episode_deadline_s=5)
    t, engine = run(renderer, ["1+1", "unused"], limits=limits)
    assert engine.caps == [6]
    assert len(t.turns) == 1
    assert t.end == "truncated"
    assert t.metrics["success"] == 0.0
    assert len(t.segments[0].token_ids) == t.segments[0].turns[-1].end


def test_exhausted_attempts_truncate_and_may_carry_the_next_prompt(renderer):
    plain, _ = run(renderer, ["1+1"] * 3)
    carried, _ = run(renderer, ["1+1"] * 3, bootstrap=True)
    assert plain.end == carried.end == "truncated"
    assert carried.bootstrap
    assert not plain.bootstrap
    assert carried.tokens > plain.tokens
    assert carried.action_tokens == plain.action_tokens


def test_a_broken_environment_makes_a_failed_trajectory(renderer):
    env = make(GP, {"prompt_style": "brief"})
    env.step = lambda answer: 1 / 0
    t, _ = run(renderer, ["1+1"], env=env)
    assert t.end == "failed"
    assert t.failure == "environment step: ZeroDivisionError: division by zero"
    assert not t.segments
    assert t.metrics == {}


def test_an_episode_that_hangs_is_failed_at_its_deadline(renderer):
    engine = ScriptedEngine(renderer, [])

    async def forever(*_, **__):
        await asyncio.sleep(60)

    engine.generate = forever
    request = EpisodeRequest(id="a", variant="v", seed=3, group_id=3)
    env = make(GP, {"prompt_style": "brief"})
    t = asyncio.run(
        run_episode(request, InProcess(env), engine, renderer, EpisodeLimits(16, 128, 0.05))
    )
    assert t.end == "failed"
    assert "episode_deadline_s = 0.05" in t.failure


def test_a_lost_engine_is_not_the_episodes_fault(renderer):
    with pytest.raises(EngineFailure, match="gone"):
        run(renderer, [EngineFailure("gone")])


def test_each_sample_of_a_seed_draws_its_own_answers(renderer):
    def seeds(**request):
        return run(renderer, ["1+1", "1+1", "1+1"], **request)[1].seeds

    first = seeds()
    assert len(set(first)) == 3
    assert seeds(sample_index=0) == first
    for other in (seeds(sample_index=1), seeds(sampling_seed=1), seeds(seed=4, group_id=4)):
        assert not set(other) & set(first)


def test_a_next_prompt_without_room_is_no_bootstrap(renderer):
    plain, _ = run(renderer, ["1+1"] * 3)
    carried, _ = run(renderer, ["1+1"] * 3, bootstrap=True)
    for context, expected in ((carried.tokens, True), (carried.tokens - 1, False)):
        limits = EpisodeLimits(answer_tokens=16, context_tokens=context, episode_deadline_s=5)
        t, _ = run(renderer, ["1+1"] * 3, limits=limits, bootstrap=True)
        assert t.bootstrap is expected
        assert t.tokens == (carried if expected else plain).tokens


class Endless:
    """An environment of three words that never ends; each message begins a new prompt."""

    def __init__(self, **first):
        self.spec, self.question, self.first = make(GP, {}).spec, "endless", first

    def reset(self, *, seed):
        return {"message": "begin", "restart": 1} | self.first, {}

    def step(self, action):
        return {"message": "go on", "restart": 1}, 0.25, False, False, {}


def test_an_episode_that_never_ends_is_truncated_at_its_turns(renderer):
    limits = EpisodeLimits(16, 128, episode_deadline_s=5, max_turns=4)
    t, engine = run(renderer, ["a"] * 9, env=Endless(), limits=limits)
    assert (t.end, len(t.turns), len(engine.prompts)) == ("truncated", 4, 4)
    assert t.metrics == {"success": 0.0, "first_try": 0.0}
    assert (t.question, t.total_reward, len(t.segments)) == ("endless", 1.0, 4)
    carried, _ = run(renderer, ["a"] * 9, env=Endless(), limits=limits, bootstrap=True)
    assert carried.bootstrap
    assert len(carried.segments) == 5


def test_a_first_prompt_without_room_has_no_score(renderer):
    limits = EpisodeLimits(answer_tokens=16, context_tokens=4, episode_deadline_s=5)
    t, engine = run(renderer, [], limits=limits)
    assert t.end == "failed"
    assert "the first prompt has" in t.failure
    assert "rollout.context_tokens = 4" in t.failure
    assert not engine.prompts


def test_a_picture_for_a_model_of_text_fails_its_episode(renderer):
    t, _ = run(renderer, [], env=Endless(image=np.zeros((8, 8, 3), np.uint8)))
    assert t.end == "failed"
    assert "the prompt cannot be rendered" in t.failure
    assert "is a model of text alone" in t.failure


def test_a_refused_request_fails_its_episode_alone(renderer):
    t, _ = run(renderer, [RequestRefused("vLLM refused a request: too long")])
    assert (t.end, t.failure) == ("failed", "vLLM refused a request: too long")
    assert t.metrics == {}


def test_a_solved_episode_carries_no_next_prompt(renderer):
    plain, _ = run(renderer, [gold()])
    carried, _ = run(renderer, [gold()], bootstrap=True)
    assert (carried.end, carried.bootstrap, carried.tokens) == ("terminated", False, plain.tokens)
