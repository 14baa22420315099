"""What every environment must do, as one function: `check(make_env)` raises where one does not.

In: a picklable call that makes an environment. Out: nothing, or ContractError naming the clause.
Knows no particular environment; tests run it over all of them, third parties over their own.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import multiprocessing
import pickle
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from gymnasium.utils.env_checker import check_env

from envs.base import Observation, TextEnv

MakeEnv = Callable[[], TextEnv]
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
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            there = pool.submit(fingerprint, make_env, episodes).result(timeout=120)
        require(here == there, "the same seeds gave other episodes in another process")


def check_gymnasium(make_env: MakeEnv) -> None:
    """Gymnasium's own checker passes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(make_env(), skip_render_check=True)


def check_expert(make_env: MakeEnv, episodes: int) -> None:
    """The expert's answers solve every episode, each at its first answer."""
    env = make_env()
    for seed in range(episodes):
        infos = [info for *_, info in play(env, seed, lambda env: env.expert())]
        metrics, end = infos[-1]["metrics"], infos[-1]["end"]
        require(end == "terminated", f"seed {seed}: the expert's episode ended {end}")
        for name in ("success", "first_try"):
            require(
                metrics.get(name) == 1.0,
                f"seed {seed}: the expert's {name} is {metrics.get(name)}, not 1.0",
            )


def check_failure(make_env: MakeEnv, episodes: int) -> None:
    """An episode of useless answers is truncated, without success."""
    env = make_env()
    for seed in range(episodes):
        *_, (_, _, info) = play(env, seed, lambda env: "nonsense")
        require(info["end"] == "truncated", f"seed {seed}: nonsense ended {info['end']}")
        for name in ("success", "first_try"):
            require(
                info["metrics"].get(name) == 0.0,
                f"seed {seed}: nonsense has {name} {info['metrics'].get(name)}",
            )


def check_answers(make_env: MakeEnv) -> None:
    """No text crashes an environment or solves it."""
    env = make_env()
    for seed, text in enumerate(NASTY):
        env.reset(seed=seed)
        _, _, terminated, _, info = env.step(text)
        require(not terminated, f"the answer {text[:30]!r} solved seed {seed}: {info}")


def check_travel(make_env: MakeEnv) -> None:
    """Observations pickle and go through Arrow's own format without a change."""
    env = make_env()
    first, _ = env.reset(seed=0)
    second = env.step("nonsense")[0]
    for observation in (first, second):
        for copy in (pickle.loads(pickle.dumps(observation)), through_arrow(observation)):  # noqa: S301
            require(digest(copy) == digest(observation), "an observation changed when it travelled")


def through_arrow(observation: Observation) -> dict[str, Any]:
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
    result = {"message": back["message"], "restart": back["restart"]}
    if back["shape"]:
        result["image"] = np.frombuffer(back["image"], np.uint8).reshape(back["shape"])
    return result


def check_demonstrations(make_env: MakeEnv, episodes: int) -> None:
    """Demonstrations are whole conversations, the same for the same seed; the corpus ends."""
    env = make_env()
    demonstrations = list(env.demonstrations(episodes, 0))
    require(len(demonstrations) == episodes, f"{episodes} demonstrations asked, others given")
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
    texts = list(itertools.islice(env.corpus(), 1_000_000))
    require(0 < len(texts) < 1_000_000, f"the corpus yields {len(texts)} texts")


def _conversation(demonstration: Any) -> tuple[Any, ...]:
    images = [hashlib.sha256(image.tobytes()).digest() for image in demonstration.images]
    return demonstration.messages, demonstration.seed, images


def play(
    env: TextEnv, seed: int, answer: Callable[[TextEnv], str]
) -> Iterator[tuple[Observation, float, dict[str, Any]]]:
    """One episode as (observation, reward, info); each clause about a step is checked.

    The first entry is of `reset`; the last one's info carries `end`, terminated or truncated.
    """
    observation, info = env.reset(seed=seed)
    require(observation["restart"] == 1, "reset's observation does not begin a new prompt")
    yield observation, 0.0, info
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
        if terminated or truncated:
            metrics = info.get("metrics", {})
            require(
                {"success", "first_try"} <= set(metrics)
                and all(isinstance(value, float) for value in metrics.values()),
                f"seed {seed}: the metrics are {metrics}, not floats with success and first_try",
            )
            yield observation, reward, {**info, "end": "terminated" if terminated else "truncated"}
            return
        yield observation, reward, info
    raise ContractError(f"seed {seed}: no end after {MAX_TURNS} turns")


def digest(observation: Any) -> str:
    """A hash of everything that an observation shows."""
    image = observation.get("image")
    shown = f"{observation['message']}|{int(observation['restart'])}".encode()
    if image is not None:
        shown += repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()
    return hashlib.sha256(shown).hexdigest()


def fingerprint(make_env: MakeEnv, episodes: int) -> list[tuple[Any, ...]]:
    """What episodes of a mostly right player look like, comparable across processes."""
    env = make_env()
    transcript: list[tuple[Any, ...]] = []
    for seed in range(episodes):
        rng = random.Random(seed)
        player = lambda env, rng=rng: env.expert() if rng.random() < 0.7 else "no"  # noqa: E731
        for observation, reward, info in play(env, seed, player):
            transcript.append((digest(observation), reward, info.get("verdict")))
        transcript.append(tuple(sorted(info["metrics"].items())))
    return transcript


_WATCH: dict[str, Any] = {"on": False, "folders": (), "seen": [], "installed": False}
_CODE = (".py", ".pyc", ".so", ".pyd")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _WATCH["on"]:
        return
    if event in ("socket.connect", "subprocess.Popen", "os.system"):
        _WATCH["seen"].append(f"{event} {arguments[:2]}")
    elif event == "open" and isinstance(arguments[0], (str, bytes)):
        path = Path(arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0])
        writes = isinstance(arguments[1], str) and any(c in arguments[1] for c in "wax+")
        allowed = any(path.resolve().is_relative_to(folder) for folder in _WATCH["folders"])
        if not allowed and (writes or path.suffix not in _CODE):
            _WATCH["seen"].append(f"open {path}")


@contextmanager
def watched_files(folders: tuple[Path, ...]) -> Iterator[None]:
    """Refuse files outside the folders (code that is imported excepted), sockets, processes."""
    if not _WATCH["installed"]:
        tempfile.gettempdir()  # decided once, by writing a file
        sys.addaudithook(_audit)
    allowed = tuple(Path(folder).resolve() for folder in folders)
    _WATCH.update(on=True, folders=allowed, seen=[], installed=True)
    try:
        yield
    finally:
        _WATCH["on"] = False
    require(not _WATCH["seen"], f"playing reached outside: {_WATCH['seen'][:3]}")
