"""Episodes: tokens stay as sampled across turns, limits end as they should, failures are failed."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from envs.registry import make
from rollout.engine import Completion, EngineFailure, RequestRefused
from rollout.environments import ProcessLost
from rollout.episode import PLAYS, EpisodeLimits, EpisodeRequest, run_episode
from rollout.renderer import Renderer
from tests.support.engines import expanded
from tests.support.environments import InProcess, Played

LIMITS = EpisodeLimits(answer_tokens=16, context_tokens=128, episode_deadline_s=60)
GP = "cardinal/GeneralPoints-v0"


class ScriptedEngine:
    """A TokenGenerator that gives prepared answers and remembers its prompts."""

    def __init__(self, renderer, answers, stop=True):
        self.renderer, self.answers, self.stop = renderer, list(answers), stop
        self.prompts, self.caps, self.seeds = [], [], []
        self.temperatures, self.pictures = [], []

    async def generate(self, prompt_ids, *, max_tokens, temperature, seed, pictures=()):
        self.prompts.append(list(prompt_ids))
        self.caps.append(max_tokens)
        self.seeds.append(seed)
        self.temperatures.append(temperature)
        self.pictures.append(pictures)
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


def test_a_turn_says_what_its_verifier_said(renderer):
    t, _ = run(renderer, ["1+1", gold()])
    env = make(GP, {"prompt_style": "brief", "verify_iter": 3})
    env.reset(seed=3)
    said = [env.step(answer)[-1]["message"] for answer in ("1+1", gold())]
    assert [turn.message for turn in t.turns] == said
    assert said[0] != said[1]


def test_each_token_has_the_version_that_sampled_it(renderer):
    """Weights may arrive within an answer."""
    engine = ScriptedEngine(renderer, [gold()])
    generate = engine.generate

    async def updated(prompt_ids, **options):
        completion = await generate(prompt_ids, **options)
        return replace(completion, versions=[4 + i // 2 for i in range(len(completion.versions))])

    engine.generate = updated
    request, env = EpisodeRequest("a", "v", 3, 3), make(GP, {"prompt_style": "brief"})
    t = asyncio.run(run_episode(request, InProcess(env), engine, renderer, LIMITS))
    (segment,) = t.segments
    versions = segment.policy_versions[segment.action_mask].tolist()
    assert versions == [4 + i // 2 for i in range(len(versions))]
    assert t.oldest_version == 4 < max(versions)


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
    limits = EpisodeLimits(answer_tokens=16, context_tokens=prompt + 6, episode_deadline_s=60)
    t, engine = run(renderer, ["1+1", "unused"], limits=limits)
    assert engine.caps == [6]
    assert len(t.turns) == 1
    assert t.end == "truncated"
    assert t.metrics["success"] == 0.0
    assert len(t.segments[0].token_ids) == t.segments[0].turns[-1].end


def test_one_token_of_room_is_room(renderer):
    prompt = len(run(renderer, [gold()])[1].prompts[0])
    limits = EpisodeLimits(answer_tokens=16, context_tokens=prompt + 1, episode_deadline_s=60)
    t, engine = run(renderer, [""], limits=limits)
    assert (engine.caps, t.end, len(t.turns)) == ([1], "truncated", 1)


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


@pytest.mark.parametrize("read", [lambda p: [p[-1], *p[1:]], lambda p: [*p, 7], lambda p: p[:-1]])
def test_an_engine_that_read_other_tokens_stops_the_run(renderer, read):
    """Token-in-token-out: what is trained on would not be what was sampled after."""
    engine = ScriptedEngine(renderer, ["1+1"])
    generate = engine.generate

    async def other(prompt_ids, **options):
        return await generate(read(prompt_ids), **options)

    engine.generate = other
    request, env = EpisodeRequest("a", "v", 3, 3), make(GP, {"prompt_style": "brief"})
    with pytest.raises(AssertionError, match="other tokens than the model's own processor"):
        asyncio.run(run_episode(request, InProcess(env), engine, renderer, LIMITS))


def test_each_sample_of_a_seed_draws_its_own_answers(renderer):
    def seeds(**request):
        return run(renderer, ["1+1", "1+1", "1+1"], **request)[1].seeds

    first = seeds()
    assert len(set(first)) == 3
    assert seeds(sample_index=0) == first
    for other in (seeds(sample_index=1), seeds(sampling_seed=1), seeds(seed=4, group_id=4)):
        assert not set(other) & set(first)


@pytest.mark.parametrize("turns", [2, 3])
def test_a_next_prompt_without_room_is_no_bootstrap(renderer, turns):
    """Where the context ends the episode (after 2 turns of 3) as where its turns are used up."""
    used_up = EpisodeLimits(16, 128, episode_deadline_s=60, max_turns=turns)
    plain, _ = run(renderer, ["1+1"] * 3, limits=used_up)
    carried, _ = run(renderer, ["1+1"] * 3, limits=used_up, bootstrap=True)
    for context, expected in ((carried.tokens, True), (carried.tokens - 1, False)):
        limits = EpisodeLimits(answer_tokens=16, context_tokens=context, episode_deadline_s=60)
        t, _ = run(renderer, ["1+1"] * 3, limits=limits, bootstrap=True)
        assert (t.bootstrap, len(t.turns), t.end) == (expected, turns, "truncated")
        assert t.tokens == (carried if expected else plain).tokens
        unasked, _ = run(renderer, ["1+1"] * 3, limits=limits)
        assert (unasked.bootstrap, unasked.tokens) == (False, plain.tokens)


class Endless:
    """An environment of three words that never ends; each message begins a new prompt.

    later: what other observations than the first have instead; flags: of every step.
    """

    def __init__(self, later=None, flags=(False, False), **first):
        self.spec, self.question, self.first = make(GP, {}).spec, "endless", first
        self.later, self.flags = later or {}, flags

    def reset(self, *, seed):
        return {"message": "begin", "restart": 1} | self.first, {}

    def step(self, action):
        info = {"metrics": {"success": 0.0, "first_try": 0.0}} if any(self.flags) else {}
        return {"message": "go on", "restart": 1} | self.later, 0.25, *self.flags, info


def test_an_episode_that_never_ends_is_truncated_at_its_turns(renderer):
    limits = EpisodeLimits(16, 128, episode_deadline_s=60, max_turns=4)
    t, engine = run(renderer, ["a"] * 9, env=Endless(), limits=limits)
    assert (t.end, len(t.turns), len(engine.prompts)) == ("truncated", 4, 4)
    assert t.metrics == {"success": 0.0, "first_try": 0.0}
    assert (t.question, t.total_reward, len(t.segments)) == ("endless", 1.0, 4)
    carried, _ = run(renderer, ["a"] * 9, env=Endless(), limits=limits, bootstrap=True)
    assert carried.bootstrap
    assert len(carried.segments) == 5
    longest = max(len(segment.token_ids) for segment in carried.segments)
    tight = EpisodeLimits(16, longest, episode_deadline_s=60, max_turns=4)
    assert run(renderer, ["a"] * 9, env=Endless(), limits=tight, bootstrap=True)[0].bootstrap


def test_each_new_prompt_has_the_whole_context(renderer):
    free, engine = run(renderer, ["a"] * 4, env=Endless(), limits=EpisodeLimits(16, 128, 60, 4))
    room = EpisodeLimits(16, max(len(prompt) for prompt in engine.prompts) + 6, 60, 4)
    t, engine = run(renderer, ["a"] * 4, env=Endless(), limits=room, temperature=0.25)
    assert t.tokens == free.tokens > room.context_tokens
    assert engine.caps == [min(16, room.context_tokens - len(p)) for p in engine.prompts]
    assert engine.temperatures == [0.25] * 4
    assert len(set(engine.seeds)) == 4, "each prompt has draws of its own"
    assert engine.prompts[0] != engine.prompts[1] == engine.prompts[2], "nothing of earlier turns"
    for segment, prompt in zip(t.segments, engine.prompts, strict=True):
        (turn,) = segment.turns
        assert segment.token_ids[: turn.begin].tolist() == prompt
        assert turn.reward == 0.25
    assert [set(s.policy_versions[s.action_mask]) for s in t.segments] == [{1}, {2}, {3}, {4}]


LONG = {"message": "1 " * 60}


def test_a_new_prompt_without_room_truncates_and_is_left_out(renderer):
    limits = EpisodeLimits(16, 40, episode_deadline_s=60)
    t, engine = run(renderer, ["a"] * 2, env=Endless(later=LONG), limits=limits)
    assert (t.end, len(engine.prompts), len(t.segments), len(t.turns)) == ("truncated", 1, 1, 1)
    assert len(t.segments[0].token_ids) == t.turns[0].end


@pytest.mark.parametrize(("later", "fits"), [({}, True), (LONG, False)])
def test_the_prompt_that_would_have_come_next_is_carried_where_it_fits(renderer, later, fits):
    """It is a segment of its own, without a turn."""
    limits = EpisodeLimits(16, 40, episode_deadline_s=60, max_turns=1)
    t, _ = run(renderer, ["a"], env=Endless(later=later), limits=limits, bootstrap=True)
    assert (t.end, t.bootstrap, len(t.segments)) == ("truncated", fits, 1 + fits)
    assert len(t.segments[-1].turns) == 1 - fits
    if fits:
        assert t.segments[-1].token_ids.tolist() == list(renderer.prompt("go on", ()).token_ids)


@pytest.mark.parametrize(
    ("flags", "end"),
    [((True, False), "terminated"), ((False, True), "truncated"), ((True, True), "terminated")],
)
def test_an_episode_ends_as_its_environment_says(renderer, flags, end):
    """Where both flags are up it has ended: no next prompt has a value."""
    t, engine = run(renderer, ["a"], env=Endless(flags=flags), bootstrap=True)
    assert (t.end, len(engine.prompts), t.bootstrap) == (end, 1, end == "truncated")


def test_each_prompt_is_sent_with_its_own_picture_unexpanded(vision_model):
    renderer = Renderer.load(vision_model)
    shown = [np.full((128, 128, 3), value, np.uint8) for value in (0, 200)]
    env = Endless(later={"image": shown[1]}, image=shown[0])
    engine = ScriptedEngine(renderer, ["a"] * 3)
    generate, token = engine.generate, renderer.processor.token_id

    async def expanding(prompt_ids, *, pictures, **options):
        assert list(prompt_ids).count(token) == len(pictures) == 1
        ids = expanded(renderer.processor, prompt_ids, pictures)
        return await generate(ids, pictures=pictures, **options)

    engine.generate = expanding
    limits, request = EpisodeLimits(16, 128, 60, max_turns=3), EpisodeRequest("a", "v", 3, 3)
    t = asyncio.run(run_episode(request, InProcess(env), engine, renderer, limits))
    assert t.failure == ""
    for pictures in (engine.pictures, [segment.pictures for segment in t.segments]):
        assert [(p.pixels() == shown[i > 0]).all() for i, (p,) in enumerate(pictures)] == [True] * 3


def test_a_first_prompt_without_room_has_no_score(renderer):
    limits = EpisodeLimits(answer_tokens=16, context_tokens=4, episode_deadline_s=60)
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


class LosesItsProcess(InProcess):
    """A source whose environments lose their process at a step, so often."""

    def __init__(self, losses):
        super().__init__(make(GP, {"prompt_style": "brief", "verify_iter": 3}))
        self.losses, self.resets = losses, []

    @asynccontextmanager
    async def borrow(self, variant):
        self.played = Played(self.env)
        yield self

    async def reset(self, seed):
        self.resets.append(seed)
        return await self.played.reset(seed)

    async def step(self, answer):
        if self.losses:
            self.losses -= 1
            raise ProcessLost("environment step: its process was ended by SIGKILL")
        return await self.played.step(answer)


@pytest.mark.parametrize(("losses", "end"), [(PLAYS - 1, "terminated"), (PLAYS, "failed")])
def test_an_episode_that_loses_its_process_is_played_again_the_same(renderer, losses, end):
    source = LosesItsProcess(losses)
    engine = ScriptedEngine(renderer, [gold()] * PLAYS)
    request = EpisodeRequest("a", "v", 3, 3)
    t = asyncio.run(run_episode(request, source, engine, renderer, LIMITS))
    assert t.end == end
    assert source.resets == [3] * PLAYS
    assert engine.seeds == [engine.seeds[0]] * PLAYS
    assert len(t.segments) == (end == "terminated")
    assert ("SIGKILL" in (t.failure or "")) == (end == "failed")
