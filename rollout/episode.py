"""Runs one episode of an environment on an engine, into a trajectory.

Token-in-token-out: an answer joins its segment exactly as it was sampled; a rebuilt prompt
begins a new segment. Failure-is-not-a-reward: an environment that breaks makes a `failed`
trajectory; a lost engine is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ParamSpec, Protocol, TypeVar

import numpy as np

from envs.base import Observation, TextEnv
from rollout.engine import Completion
from rollout.pictures import Picture
from rollout.renderer import Prompt, Renderer
from rollout.trajectory import Segment, Trajectory, Turn

P = ParamSpec("P")
R = TypeVar("R")


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
    bootstrap: when the episode is truncated, keep the prompt that would have come next.
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
    """Caps of an answer and of a segment in tokens, and the deadline of an episode in seconds."""

    answer_tokens: int
    context_tokens: int
    episode_deadline_s: float


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


async def run_episode(
    request: EpisodeRequest,
    env: TextEnv,
    engine: TokenGenerator,
    renderer: Renderer,
    limits: EpisodeLimits,
) -> Trajectory:
    """Run one episode to its end or its deadline.

    Raises:
        rollout.engine.EngineFailure: the engine is lost, so no episode can continue.
    """
    try:
        return await asyncio.wait_for(
            _run(request, env, engine, renderer, limits), limits.episode_deadline_s
        )
    except TimeoutError:
        cause = f"episode took longer than episode_deadline_s = {limits.episode_deadline_s:g}"
    except _EnvironmentCrash as error:
        cause = str(error)
    return _trajectory(request, env, [], "failed", failure=cause)


class _EnvironmentCrash(Exception):
    """The environment raised; names the call and the error."""


def _guarded(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return call(*args, **kwargs)
    except Exception as error:  # the boundary to environments, third-party ones too
        raise _EnvironmentCrash(f"environment {call.__name__}: {error!r}") from error


async def _run(
    request: EpisodeRequest,
    env: TextEnv,
    engine: TokenGenerator,
    renderer: Renderer,
    limits: EpisodeLimits,
) -> Trajectory:
    observation, info = _guarded(env.reset, seed=request.seed)
    segments: list[_SegmentBuilder] = []
    turn = 0
    while True:
        segments = _extend(segments, observation, renderer)
        segment = segments[-1]
        room = limits.context_tokens - len(segment.token_ids)
        if room < 1:
            cut = _without_unanswered(segments)
            return _trajectory(request, env, cut, "truncated", info.get("metrics"))
        completion = await engine.generate(
            segment.unexpanded_ids,
            max_tokens=min(limits.answer_tokens, room),
            temperature=request.temperature,
            seed=_draw_seed(request, turn),
            pictures=segment.pictures,
        )
        turn += 1
        begin, end = _append(segment, completion)
        text = renderer.decode(completion.token_ids)
        observation, reward, terminated, truncated, info = _guarded(env.step, text)
        segment.turns.append(Turn(begin, end, float(reward), info.get("message", "")))
        if terminated or truncated:
            break
    bootstrap = request.bootstrap and truncated and not terminated
    if bootstrap:
        segments = _extend(segments, observation, renderer)
        bootstrap = len(segments[-1].token_ids) <= limits.context_tokens
        segments = segments if bootstrap else _without_unanswered(segments)
    ending = "terminated" if terminated else "truncated"
    return _trajectory(request, env, segments, ending, info.get("metrics"), bootstrap=bootstrap)


def _extend(
    segments: list[_SegmentBuilder], observation: Observation, renderer: Renderer
) -> list[_SegmentBuilder]:
    """Add the next user message to the last segment, or in the prompt of a new one.

    A new one begins where the environment restarts, and at every turn of a chat template that
    writes earlier answers anew: the prompt is then the whole conversation, as the template has it.
    """
    message = observation["message"]
    if observation["restart"] or not segments:
        pictures = (Picture.of(observation["image"]),) if "image" in observation else ()
        prompt = renderer.prompt(message, pictures)
        return [*segments, _SegmentBuilder(prompt, pictures, list(prompt.token_ids), message)]
    last = segments[-1]
    if renderer.appends:
        last.token_ids = last.token_ids + renderer.follow_up(message, last.token_ids[-1:])
        return segments
    answer = renderer.decode(last.token_ids[last.turns[-1].begin : last.turns[-1].end])
    earlier = (*last.earlier, (last.message, answer))
    prompt = renderer.prompt(message, last.pictures, earlier)
    ids = list(prompt.token_ids)
    return [*segments, _SegmentBuilder(prompt, last.pictures, ids, message, earlier)]


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
    env: TextEnv,
    segments: list[_SegmentBuilder],
    end: str,
    metrics: Mapping[str, float] | None = None,
    *,
    failure: str = "",
    bootstrap: bool = False,
) -> Trajectory:
    metrics = metrics or {}
    if end == "truncated" and not metrics:  # the context was full before the environment ended
        metrics = {"success": 0.0, "first_try": 0.0}
    return Trajectory(
        id=request.id,
        environment=env.spec.id if env.spec else type(env).__name__,
        variant=request.variant,
        seed=request.seed,
        group_id=request.group_id,
        question=env.question,
        segments=tuple(segment.build() for segment in segments),
        end=end,
        metrics={name: float(value) for name, value in metrics.items()},
        failure=failure,
        bootstrap=bootstrap,
    )
