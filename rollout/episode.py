"""Runs one episode of an environment on an engine, into a trajectory.

Token-in-token-out: an answer joins its segment exactly as it was sampled; a rebuilt prompt
begins a new segment. Failure-is-not-a-reward: an environment that breaks makes a `failed`
trajectory; a lost engine is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from envs.base import EnvironmentFailure
from rollout.awake import time_limit
from rollout.engine import Completion, RequestRefused
from rollout.environments import EnvironmentStep, ProcessLost
from rollout.pictures import Picture
from rollout.renderer import Prompt, Renderer
from rollout.trajectory import Segment, Trajectory, Turn

PLAYS = 3  # of an episode whose environment's process is lost each time, before it has failed


class Environment(Protocol):
    """An environment as an episode plays it; both calls raise EnvironmentFailure."""

    async def reset(self, seed: int) -> EnvironmentStep:
        """Begin an episode."""

    async def step(self, answer: str) -> EnvironmentStep:
        """Grade an answer."""


class EnvironmentSource(Protocol):
    """Where an episode's environment comes from; see `rollout.environments.EnvironmentPool`."""

    def name(self, variant: str) -> str:
        """The Gymnasium id of a variant."""

    def borrow(self, variant: str) -> AbstractAsyncContextManager[Environment]:
        """An environment for one episode; raises EnvironmentFailure."""


class TokenGenerator(Protocol):
    """The part of an engine that an episode needs."""

    async def generate(
        self,
        prompt_ids: list[int],
        *,
        max_tokens: int,
        temperature: float,
        seed: int | None,
        pictures: tuple[Picture, ...] = (),
    ) -> Completion:
        """Sample one answer; see `rollout.engine.InferenceEngine.generate`."""


@dataclass(frozen=True)
class EpisodeRequest:
    """One episode to be run.

    id: of the trajectory; ids sort in the order of the requests.
    variant: which of the worker's environments.
    seed: of the environment's reset.
    group_id: shared by the episodes of one seed (GRPO, RLOO).
    sample_index: of this episode in its group, 0 … group_size - 1.
    temperature: of sampling; 0 is greedy.
    sampling_seed: of the draws of the answers.
    bootstrap: when the episode is truncated, keep the prompt that would have come next, if it fits.
    """

    id: str
    variant: str
    seed: int
    group_id: int
    sample_index: int = 0
    temperature: float = 1.0
    sampling_seed: int = 0
    bootstrap: bool = False


@dataclass(frozen=True)
class EpisodeLimits:
    """Caps of an answer and of a segment in tokens, of an episode in seconds and in turns."""

    answer_tokens: int
    context_tokens: int
    episode_deadline_s: float
    max_turns: int = 256


@dataclass
class _SegmentBuilder:
    """A segment that still grows.

    message: the user message that its prompt ends with.
    earlier: the messages before it in that prompt, with their answers (`Renderer.appends`).
    """

    prompt: Prompt
    pictures: tuple[Picture, ...]
    token_ids: list[int]
    message: str
    earlier: tuple[tuple[str, str], ...] = ()
    mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    @property
    def unexpanded_ids(self) -> list[int]:
        """The segment so far, as the engine takes it: each picture is one placeholder."""
        return self.prompt.unexpanded_ids + self.token_ids[len(self.prompt.token_ids) :]

    def pad(self) -> None:
        """Fill up to the last token: prompt tokens have no log-probability and no version."""
        missing = len(self.token_ids) - len(self.mask)
        self.mask += [False] * missing
        self.logprobs += [0.0] * missing
        self.versions += [-1] * missing

    def build(self) -> Segment:
        """The finished segment."""
        self.pad()
        return Segment(
            np.asarray(self.token_ids, np.int32),
            np.asarray(self.mask, np.bool_),
            np.asarray(self.logprobs, np.float32),
            np.asarray(self.versions, np.int32),
            tuple(self.turns),
            self.pictures,
        )


class _EpisodeFailure(Exception):
    """What ends an episode as failed and is no fault of its environment; says the cause."""


async def run_episode(
    request: EpisodeRequest,
    environments: EnvironmentSource,
    engine: TokenGenerator,
    renderer: Renderer,
    limits: EpisodeLimits,
) -> Trajectory:
    """Run one episode to its end or its deadline; again from its seed if its process is lost.

    Raises:
        rollout.engine.EngineFailure: the engine is lost, so no episode can continue.
    """
    name = environments.name(request.variant)
    cause = ""
    for _ in range(PLAYS):
        try:
            async with (
                environments.borrow(request.variant) as env,
                time_limit(limits.episode_deadline_s),
            ):
                return await _run(request, name, env, engine, renderer, limits)
        except ProcessLost as failure:
            cause = str(failure)
            continue
        except TimeoutError:
            cause = f"episode took longer than episode_deadline_s = {limits.episode_deadline_s:g}"
        except (EnvironmentFailure, RequestRefused, _EpisodeFailure) as failure:
            cause = str(failure)
        break
    return Trajectory(
        id=request.id,
        environment=name,
        variant=request.variant,
        seed=request.seed,
        group_id=request.group_id,
        segments=(),
        end="failed",
        failure=cause,
    )


async def _run(
    request: EpisodeRequest,
    name: str,
    env: Environment,
    engine: TokenGenerator,
    renderer: Renderer,
    limits: EpisodeLimits,
) -> Trajectory:
    step = await env.reset(request.seed)
    segments: list[_SegmentBuilder] = []
    turn = 0
    while True:
        segments = _extend(segments, step, renderer)
        segment = segments[-1]
        room = limits.context_tokens - len(segment.token_ids)
        if room < 1:
            _require_answered(turn, segment, limits)
            return _truncated(request, name, segments, step, limits)
        completion = await engine.generate(
            segment.unexpanded_ids,
            max_tokens=min(limits.answer_tokens, room),
            temperature=request.temperature,
            seed=_draw_seed(request, turn),
            pictures=segment.pictures,
        )
        turn += 1
        begin, end = _append(segment, completion)
        step = await env.step(renderer.decode(completion.token_ids))
        segment.turns.append(Turn(begin, end, step.reward, step.note))
        if step.terminated or step.truncated or turn == limits.max_turns:
            break
    if step.terminated:
        return _trajectory(request, name, segments, "terminated", step)
    if request.bootstrap:
        segments = _extend(segments, step, renderer)
    return _truncated(request, name, segments, step, limits)


def _truncated(
    request: EpisodeRequest,
    name: str,
    segments: list[_SegmentBuilder],
    step: EnvironmentStep,
    limits: EpisodeLimits,
) -> Trajectory:
    """Of an episode that goes no further; the prompt after its last answer stays for its value.

    Only where it fits: the value of a part of it would be that of another state.
    """
    bootstrap = request.bootstrap and len(segments[-1].token_ids) <= limits.context_tokens
    segments = segments if bootstrap else _without_unanswered(segments)
    return _trajectory(request, name, segments, "truncated", step, bootstrap=bootstrap)


def _require_answered(turns: int, segment: _SegmentBuilder, limits: EpisodeLimits) -> None:
    """An episode whose first prompt fits nowhere was never played, and has no score."""
    if not turns:
        raise _EpisodeFailure(
            f"the first prompt has {len(segment.token_ids)} tokens; "
            f"rollout.context_tokens = {limits.context_tokens} leaves no room for an answer"
        )


def _extend(
    segments: list[_SegmentBuilder], step: EnvironmentStep, renderer: Renderer
) -> list[_SegmentBuilder]:
    """Add the next user message to the last segment, or in the prompt of a new one.

    A new one begins where the environment restarts, and at every turn of a chat template that
    writes earlier answers anew: the prompt is then the whole conversation, as the template has it.
    """
    try:
        if step.restart or not segments:
            pictures = () if step.picture is None else (step.picture,)
            prompt = renderer.prompt(step.message, pictures)
            new = _SegmentBuilder(prompt, pictures, list(prompt.token_ids), step.message)
            return [*segments, new]
        last = segments[-1]
        if renderer.appends:
            last.token_ids = last.token_ids + renderer.follow_up(step.message, last.token_ids[-1:])
            return segments
        answer = renderer.decode(last.token_ids[last.turns[-1].begin : last.turns[-1].end])
        earlier = (*last.earlier, (last.message, answer))
        prompt = renderer.prompt(step.message, last.pictures, earlier)
    except Exception as error:  # the boundary to templates and processors, which raise all kinds
        raise _EpisodeFailure(f"the prompt cannot be rendered: {error!r}") from error
    ids = list(prompt.token_ids)
    return [*segments, _SegmentBuilder(prompt, last.pictures, ids, step.message, earlier)]


def _append(segment: _SegmentBuilder, completion: Completion) -> tuple[int, int]:
    """Join the sampled tokens to the segment; returns their [begin, end)."""
    # Token-in-token-out: the engine read what is trained on, the tokens of pictures included.
    assert list(completion.prompt_ids) == segment.token_ids, (
        "the engine expanded a picture into other tokens than the model's own processor"
    )
    segment.pad()
    begin = len(segment.token_ids)
    segment.token_ids += list(completion.token_ids)
    segment.mask += [True] * len(completion.token_ids)
    segment.logprobs += list(completion.logprobs)
    segment.versions += [int(v) for v in completion.versions]
    return begin, len(segment.token_ids)


def _without_unanswered(segments: list[_SegmentBuilder]) -> list[_SegmentBuilder]:
    """The segments without the prompt after the last answer."""
    last = segments[-1]
    if not last.turns:
        return segments[:-1]
    last.token_ids = last.token_ids[: last.turns[-1].end]
    return segments


def _draw_seed(request: EpisodeRequest, turn: int) -> int:
    key = (request.sampling_seed, request.seed, request.sample_index, turn)
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def _trajectory(
    request: EpisodeRequest,
    name: str,
    segments: list[_SegmentBuilder],
    end: str,
    last: EnvironmentStep,
    *,
    bootstrap: bool = False,
) -> Trajectory:
    metrics: Mapping[str, float] = last.metrics
    if not metrics:  # context or turns were used up before the environment ended
        metrics = {"success": 0.0, "first_try": 0.0}
    return Trajectory(
        id=request.id,
        environment=name,
        variant=request.variant,
        seed=request.seed,
        group_id=request.group_id,
        question=last.question,
        segments=tuple(segment.build() for segment in segments),
        end=end,
        metrics=dict(metrics),
        bootstrap=bootstrap,
    )
