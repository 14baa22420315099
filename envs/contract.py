"""What every environment must do, as one function: `check(make_env)`.

It raises ContractError, which names the clause that does not hold. The tests run it on the
built-in environments; run it on your own.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import multiprocessing
import os
import pickle
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from gymnasium.utils.env_checker import check_env

from envs.base import Demonstration, Observation, TextEnv, offers
from envs.gymnasium_text import GymnasiumText

MakeEnv = Callable[[], TextEnv]
Row: TypeAlias = tuple[object, ...]
MAX_TURNS = 10_000
NASTY = (
    "",
    " ",
    "{",
    "}{",
    "\x00",
    "\n" * 100,
    "(" * 10_000,
    ")" * 10_000,
    "9**9**9**9",
    "1" * 30_000,
    "[" * 10_000,
    '{"formula": "' * 1000,
    "__import__('os').system('true')",
    "{}" * 5_000,
    "\ud800",
    "٣+٣",
    '{"action": null}',
    "forward()" * 1000,
    "null",
    "1e999",
    "-" * 10_000,
)
"""Answers that have broken parsers: none may crash, hang or be executed."""


class ContractError(AssertionError):
    """An environment breaks a clause of the contract; the message says which and how."""


def require(holds: bool, sentence: str) -> None:
    """Raise ContractError with the sentence unless it holds."""
    if not holds:
        raise ContractError(sentence)


def check(
    make_env: MakeEnv, episodes: int = 8, folders: tuple[Path, ...] = (), processes: bool = True
) -> None:
    """Hold an environment to everything that `envs.base.TextEnv` promises.

    Args:
        make_env: makes a new environment; for `processes` it must pickle, as
            `functools.partial(envs.registry.make, ID, SETTINGS)` does.
        episodes: seeds tried for each clause.
        folders: the only folders whose files the environment may open while it is played.
        processes: whether to play in another process too, with another hash seed.

    Raises:
        ContractError: the first clause that does not hold.
    """
    check_gymnasium(make_env)
    check_closing(make_env)
    if offers(make_env(), "expert"):
        check_expert(make_env, episodes)
    check_failure(make_env, min(episodes, 3))
    check_answers(make_env)
    check_travel(make_env)
    check_demonstrations(make_env, episodes)
    before = random.getstate(), pickle.dumps(np.random.get_state())
    with watched_files(folders):
        here = fingerprint(make_env, episodes)
    after = random.getstate(), pickle.dumps(np.random.get_state())
    require(before == after, "playing changed the global random state of random or numpy")
    random.seed(1234)
    np.random.seed(1234)
    require(here == fingerprint(make_env, episodes), "the same seeds gave other episodes")
    if processes:
        check_other_process(make_env, episodes)


def check_other_process(make_env: MakeEnv, episodes: int) -> None:
    """The same seeds give the same episodes in another process, with another hash seed."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(fingerprint, make_env, episodes).result(timeout=120)
    here = fingerprint(make_env, episodes)
    require(here == there, "the same seeds gave other episodes in another process")


def check_gymnasium(make_env: MakeEnv) -> None:
    """Gymnasium's own checker passes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Its close check makes an environment of its own, whose calls nobody could name.
        check_env(make_env(), skip_render_check=True, skip_close_check=True)


def check_closing(make_env: MakeEnv) -> None:
    """It can be closed, and closed again."""
    env = make_env()
    env.reset(seed=0)
    env.close()
    env.close()


def check_expert(make_env: MakeEnv, episodes: int) -> None:
    """The expert's answers solve every episode, each at its first answer."""
    env = make_env()
    for seed in range(episodes):
        *_, last = play(env, seed, lambda env: env.expert())
        require(last.end == "terminated", f"seed {seed}: the expert's episode ended {last.end}")
        for name in ("success", "first_try"):
            value = last.metrics.get(name)
            require(value == 1.0, f"seed {seed}: the expert's {name} is {value}, not 1.0")


def check_failure(make_env: MakeEnv, episodes: int) -> None:
    """An episode of useless answers is truncated, without success.

    A plain Gymnasium environment may call a lost episode terminated.
    """
    env = make_env()
    for seed in range(episodes):
        *_, last = play(env, seed, lambda env: "nonsense")
        plain = isinstance(env, GymnasiumText)
        require(plain or last.end == "truncated", f"seed {seed}: nonsense ended {last.end}")
        for name in ("success", "first_try"):
            value = last.metrics.get(name)
            require(value == 0.0, f"seed {seed}: nonsense has {name} {value}")


def check_answers(make_env: MakeEnv) -> None:
    """No text crashes an environment or solves it."""
    env = make_env()
    for seed, text in enumerate(NASTY):
        env.reset(seed=seed)
        _, _, terminated, _, info = env.step(text)
        solved = terminated and info.get("metrics", {}).get("success") != 0
        require(not solved, f"the answer {text[:30]!r} solved seed {seed}: {info}")


def check_travel(make_env: MakeEnv) -> None:
    """Observations pickle and go through Arrow's own format without a change."""
    env = make_env()
    first, _ = env.reset(seed=0)
    second = env.step("nonsense")[0]
    for observation in (first, second):
        for copy in (pickle.loads(pickle.dumps(observation)), through_arrow(observation)):  # noqa: S301
            require(digest(copy) == digest(observation), "an observation changed when it travelled")


def through_arrow(observation: Observation) -> Observation:
    """An observation after a round trip as an Arrow record batch."""
    image = observation.get("image")
    row = {
        "message": observation["message"],
        "restart": int(observation["restart"]),
        "shape": [] if image is None else list(image.shape),
        "image": b"" if image is None else np.ascontiguousarray(image).tobytes(),
    }
    batch = pa.RecordBatch.from_pylist([row])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    back = pa.ipc.open_stream(sink.getvalue()).read_all().to_pylist()[0]
    result: Observation = {"message": back["message"], "restart": back["restart"]}
    if back["shape"]:
        result["image"] = np.frombuffer(back["image"], np.uint8).reshape(back["shape"])
    return result


def check_demonstrations(make_env: MakeEnv, episodes: int) -> None:
    """Demonstrations are whole conversations, the same for the same seed; the corpus ends.

    Each where the environment has them.
    """
    env = make_env()
    if offers(env, "demonstrations"):
        _check_conversations(env, episodes)
    if offers(env, "corpus"):
        texts = list(itertools.islice(env.corpus(), 1_000_000))
        require(0 < len(texts) < 1_000_000, f"the corpus yields {len(texts)} texts")


def _check_conversations(env: TextEnv, episodes: int) -> None:
    demonstrations = list(env.demonstrations(episodes, 0))
    require(
        len(demonstrations) == episodes,
        f"{len(demonstrations)} demonstrations, not the {episodes} requested",
    )
    for demonstration in demonstrations:
        roles = [message["role"] for message in demonstration.messages]
        turns = len(roles) // 2
        require(
            turns > 0 and roles == ["user", "assistant"] * turns,
            f"a demonstration's roles are {roles}, not user and assistant in turn",
        )
        trained = {m["role"] for m in demonstration.messages if m["train"]}
        require(trained == {"assistant"}, f"a demonstration trains {trained}, not the assistant")
    again = list(env.demonstrations(episodes, 0))
    require(
        [_conversation(d) for d in demonstrations] == [_conversation(d) for d in again],
        "the same seed gave other demonstrations",
    )


def _conversation(demonstration: Demonstration) -> Row:
    images = [hashlib.sha256(image.tobytes()).hexdigest() for image in demonstration.images]
    messages = [tuple(message.values()) for message in demonstration.messages]
    return *messages, demonstration.seed, *images


class ObservedStep(NamedTuple):
    """One observation, and what the step before it returned; of `reset` the rest is empty.

    end: terminated or truncated, on the last step.
    metrics: of the episode, on the last step.
    """

    observation: Observation
    reward: float = 0.0
    verdict: str = ""
    end: str = ""
    metrics: Mapping[str, float] = {}


def play(env: TextEnv, seed: int, answer: Callable[[TextEnv], str]) -> Iterator[ObservedStep]:
    """One episode; each clause about a step is checked."""
    observation, _ = env.reset(seed=seed)
    require(observation["restart"] == 1, "reset's observation does not begin a new prompt")
    question = env.question
    require(isinstance(question, str), f"seed {seed}: the question is {question!r}, not a text")
    yield ObservedStep(observation)
    for _ in range(MAX_TURNS):
        require(
            env.observation_space.contains(observation),
            f"seed {seed}: an observation is outside observation_space",
        )
        observation, gained, terminated, truncated, info = env.step(answer(env))
        reward = float(gained)
        require(math.isfinite(reward), f"seed {seed}: the reward is {reward}")
        for name in ("verdict", "message"):
            require(isinstance(info.get(name), str), f"seed {seed}: info lacks the text {name!r}")
        require(not (terminated and truncated), f"seed {seed}: both terminated and truncated")
        require(env.question == question, f"seed {seed}: the question changed within an episode")
        if terminated or truncated:
            end = "terminated" if terminated else "truncated"
            metrics = info.get("metrics", {})
            require(
                {"success", "first_try"} <= set(metrics)
                and all(isinstance(value, float) for value in metrics.values()),
                f"seed {seed}: the metrics are {metrics}, not floats with success and first_try",
            )
            yield ObservedStep(observation, reward, info["verdict"], end, metrics)
            return
        yield ObservedStep(observation, reward, info["verdict"])
    raise ContractError(f"seed {seed}: no end after {MAX_TURNS} turns")


def digest(observation: Observation) -> str:
    """A hash of everything that an observation shows."""
    image = observation.get("image")
    shown = f"{observation['message']}|{int(observation['restart'])}".encode()
    if image is not None:
        shown += repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()
    return hashlib.sha256(shown).hexdigest()


def fingerprint(make_env: MakeEnv, episodes: int) -> list[Row]:
    """Episodes of a mostly right player, in a form that compares across processes.

    Without an expert the player's answers are none in particular.
    """
    env = make_env()
    right = (lambda env: env.expert()) if offers(env, "expert") else (lambda env: "yes")
    rows: list[Row] = []
    for seed in range(episodes):
        rng = random.Random(seed)
        player = lambda env, rng=rng: right(env) if rng.random() < 0.7 else "no"  # noqa: E731
        for turn in play(env, seed, player):
            rows.append((digest(turn.observation), turn.reward, turn.verdict))
        rows.append((env.question, *sorted(turn.metrics.items())))
    return rows


class _Watch:
    """What the audit hook, which cannot be removed, is to do and has noticed."""

    on = False
    installed = False
    folders: tuple[Path, ...] = ()
    noticed: ClassVar[list[str]] = []


_CODE = (".py", ".pyc", ".so", ".pyd")


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if not _Watch.on:
        return
    if event in ("socket.connect", "subprocess.Popen", "os.system"):
        _Watch.noticed.append(f"{event} {arguments[:2]}")
    elif event == "open" and isinstance(arguments[0], (str, bytes)):
        path = Path(os.fsdecode(arguments[0]))
        writes = isinstance(arguments[1], str) and any(c in arguments[1] for c in "wax+")
        allowed = any(path.resolve().is_relative_to(folder) for folder in _Watch.folders)
        if not allowed and (writes or path.suffix not in _CODE):
            _Watch.noticed.append(f"open {path}")


@contextmanager
def watched_files(folders: tuple[Path, ...]) -> Iterator[None]:
    """Refuse files outside the folders (code that is imported excepted), sockets, processes."""
    if not _Watch.installed:
        tempfile.gettempdir()  # decided once, by writing a file
        sys.addaudithook(_audit)
        _Watch.installed = True
    _Watch.folders = tuple(Path(folder).resolve() for folder in folders)
    _Watch.noticed.clear()
    _Watch.on = True
    try:
        yield
    finally:
        _Watch.on = False
    require(not _Watch.noticed, f"playing reached outside: {_Watch.noticed[:3]}")
