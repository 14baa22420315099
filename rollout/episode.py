"""One episode: an environment and an engine in, a trajectory out.

Token in, token out: an answer joins its segment exactly as sampled; a rebuilt prompt starts a
new segment, with its picture. A failure of ours makes a `failed` trajectory (law 3); a dead
engine is raised.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from envs.base import Observation, TextEnv
from rollout.pictures import Picture
from rollout.renderer import Prompt, Renderer
from rollout.trajectory import Segment, Trajectory, Turn


class Generator(Protocol):
    """What an episode needs of an engine."""

    async def generate(
        self, prompt_ids: Any, *, max_tokens: int, temperature: float, seed: int | None,
        pictures: tuple[Picture, ...] = (),
    ) -> Any:  # fmt: skip
        """Sample one answer; see `rollout.engine.InferenceEngine.generate`."""


@dataclass(frozen=True)
class EpisodeRequest:
    """What is to be played.

    id: the trajectory's id; sorts in the order of the requests.
    variant: which of the worker's environments.
    seed: of the environment's reset.
    play: number of the play of this seed (0 … group_size - 1); group_id is shared by them.
    sampling_seed: of the answers' draws.
    bootstrap: keep the prompt that would have come next when the episode is truncated.
    """

    id: str
    variant: str
    seed: int
    group_id: int
    play: int = 0
    temperature: float = 1.0
    sampling_seed: int = 0
    bootstrap: bool = False


@dataclass(frozen=True)
class Limits:
    """Caps in tokens, and the deadline of an episode in seconds."""

    answer_tokens: int
    context_tokens: int
    episode_deadline_s: float


@dataclass
class _Draft:
    """A segment that still grows.

    An engine is sent each picture's placeholder, and the segment records what it becomes.
    """

    prompt: Prompt
    pictures: tuple[Picture, ...]
    token_ids: list[int]
    mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    @property
    def sent(self) -> list[int]:
        """The segment so far, as the engine takes it."""
        return self.prompt.sent + self.token_ids[len(self.prompt.token_ids) :]

    def pad(self) -> None:
        """Prompt tokens have no log-probability and no version."""
        missing = len(self.token_ids) - len(self.mask)
        self.mask += [False] * missing
        self.logprobs += [0.0] * missing
        self.versions += [-1] * missing

    def finish(self) -> Segment:
        self.pad()
        return Segment(
            np.asarray(self.token_ids, np.int32),
            np.asarray(self.mask, np.bool_),
            np.asarray(self.logprobs, np.float32),
            np.asarray(self.versions, np.int32),
            tuple(self.turns),
            self.pictures,
        )


async def play(
    request: EpisodeRequest, env: TextEnv, engine: Generator, renderer: Renderer, limits: Limits
) -> Trajectory:
    """Play one episode to its end or its deadline.

    Raises:
        rollout.engine.EngineFailure: the engine is lost; nothing can be played any more.
    """
    try:
        return await asyncio.wait_for(
            _play(request, env, engine, renderer, limits), limits.episode_deadline_s
        )
    except TimeoutError:
        cause = f"episode took longer than episode_deadline_s = {limits.episode_deadline_s:g}"
    except _Broken as broken:
        cause = str(broken)
    return _trajectory(request, env, [], "failed", failure=cause)


class _Broken(Exception):
    """The environment raised: the boundary that it crossed, and its words."""


def _guarded(step: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return step(*args, **kwargs)
    except Exception as error:  # the boundary to environments, third-party ones too
        raise _Broken(f"environment {step.__name__}: {error!r}") from error


async def _play(
    request: EpisodeRequest, env: TextEnv, engine: Generator, renderer: Renderer, limits: Limits
) -> Trajectory:
    observation, info = _guarded(env.reset, seed=request.seed)
    drafts: list[_Draft] = []
    number = 0
    while True:
        drafts = _extend(drafts, observation, renderer)
        draft = drafts[-1]
        room = limits.context_tokens - len(draft.token_ids)
        if room < 1:
            return _trajectory(request, env, _cut(drafts), "truncated", info=info)
        completion = await engine.generate(
            draft.sent,
            max_tokens=min(limits.answer_tokens, room),
            temperature=request.temperature,
            seed=_draw_seed(request, number),
            pictures=draft.pictures,
        )
        number += 1
        begin, end = _append(draft, completion)
        text = renderer.decode(completion.token_ids)
        observation, reward, terminated, truncated, info = _guarded(env.step, text)
        draft.turns.append(Turn(begin, end, float(reward), info.get("message", "")))
        if terminated or truncated:
            break
    bootstrap = request.bootstrap and truncated and not terminated
    if bootstrap:
        drafts = _extend(drafts, observation, renderer)
        bootstrap = len(drafts[-1].token_ids) <= limits.context_tokens
        drafts = drafts if bootstrap else _cut(drafts)
    ending = "terminated" if terminated else "truncated"
    return _trajectory(request, env, drafts, ending, info=info, bootstrap=bootstrap)


def _extend(drafts: list[_Draft], observation: Observation, renderer: Renderer) -> list[_Draft]:
    """Add the next user message, to the open segment or as a new one."""
    if observation["restart"] or not drafts:
        seen = (Picture.of(observation["image"]),) if "image" in observation else ()
        prompt = renderer.prompt(observation["message"], seen)
        return [*drafts, _Draft(prompt, seen, list(prompt.token_ids))]
    answer = drafts[-1].token_ids
    drafts[-1].token_ids = answer + renderer.follow(observation["message"], answer[-1:])
    return drafts


def _append(draft: _Draft, completion: Any) -> tuple[int, int]:
    """Join the sampled tokens to the segment; returns their [begin, end)."""
    # Law 1: what the engine read is what is trained on, pictures' tokens included.
    assert list(completion.prompt_ids) == draft.token_ids, (
        "the engine expanded a picture into other tokens than the model's own processor"
    )
    draft.pad()
    begin = len(draft.token_ids)
    draft.token_ids += list(completion.token_ids)
    draft.mask += [True] * len(completion.token_ids)
    draft.logprobs += list(completion.logprobs)
    draft.versions += [int(v) for v in completion.versions]
    return begin, len(draft.token_ids)


def _cut(drafts: list[_Draft]) -> list[_Draft]:
    """Drop what follows the last sampled token: nothing was answered to it."""
    last = drafts[-1]
    if not last.turns:
        return drafts[:-1]
    last.token_ids = last.token_ids[: last.turns[-1].end]
    return drafts


def _draw_seed(request: EpisodeRequest, number: int) -> int:
    key = (request.sampling_seed, request.seed, request.play, number)
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def _trajectory(
    request: EpisodeRequest,
    env: TextEnv,
    drafts: list[_Draft],
    end: str,
    *,
    info: dict[str, Any] | None = None,
    failure: str = "",
    bootstrap: bool = False,
) -> Trajectory:
    metrics = dict((info or {}).get("metrics", {}))
    if end == "truncated" and not metrics:  # the context ran out before the environment's end
        metrics = {"success": 0.0, "first_try": 0.0}
    return Trajectory(
        id=request.id,
        environment=env.spec.id if env.spec else type(env).__name__,
        variant=request.variant,
        seed=request.seed,
        group_id=request.group_id,
        segments=tuple(draft.finish() for draft in drafts),
        end=end,
        metrics={name: float(value) for name, value in metrics.items()},
        failure=failure,
        bootstrap=bootstrap,
    )
