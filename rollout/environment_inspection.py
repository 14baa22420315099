"""What a check asks of an environment besides its episodes: what it offers, and the contract.

Input: an environment, or how to make it. Output: an Inspection, texts, or EnvironmentFailure. Runs
where the environment does: one of others in its own process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from itertools import islice
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

from envs.base import Demonstration, Message, TextEnv, offers, shows_pictures
from envs.baselines import Floor, floors
from envs.checked import boundary, pixels_of
from envs.registry import make

OFFERS = ("expert", "demonstrations", "corpus", "baselines")
CALLS = ("reset", "step", "expert", "demonstrations", "corpus", "baselines", "close")  # reported
OTHER_PROCESS = "in another process"
BETWEEN = ("contract", "inspect", "floors")  # a check's own work, by the call that asks for it

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Report = Callable[[str], None]  # gets what begins: a call of the environment, or of BETWEEN


@dataclass(frozen=True)
class Inspection:
    """What an environment offers.

    offered: of OFFERS.
    pictures: whether its observations hold one.
    corpus, demonstrations: as requested.
    """

    offered: frozenset[str]
    pictures: bool = False
    corpus: list[str] = field(default_factory=list)
    demonstrations: list[Demonstration] = field(default_factory=list)


def inspect(
    env: TextEnv,
    corpus: bool = False,
    demonstrations: int = 0,
    seed: int = 0,
    report: Report = lambda call: None,
) -> Inspection:
    """What an environment offers.

    Args:
        env: the environment.
        corpus: whether to read its corpus, where it has one.
        demonstrations: how many to read, where it has them.
        seed: of the demonstrations.
        report: is told of each.

    Raises:
        EnvironmentFailure: its corpus or its demonstrations break.
    """
    offered = frozenset(name for name in OFFERS if offers(env, name))
    texts: list[str] = []
    shown: list[Demonstration] = []
    if corpus and "corpus" in offered:
        report("corpus")
        with boundary("corpus"):
            texts = list(map(str, env.corpus()))
    if demonstrations and "demonstrations" in offered:
        report("demonstrations")
        with boundary("demonstrations"):
            first = islice(env.demonstrations(demonstrations, seed), demonstrations)
            shown = [_checked(one) for one in first]
    return Inspection(offered, shows_pictures(env), texts, shown)


def _checked(one: Demonstration) -> Demonstration:
    messages = tuple(
        Message(role=str(m["role"]), content=str(m["content"]), train=bool(m["train"]))
        for m in one.messages
    )
    return Demonstration(messages, tuple(map(pixels_of, one.images)), int(one.seed))


def broken_clause(
    env_id: str,
    settings: dict[str, object],
    episodes: int,
    folders: tuple[Path, ...],
    processes: bool,
    report: Report,
) -> str:
    """What of the contract an environment breaks, "" if it holds; see `envs.contract.check`."""
    from envs import contract  # with packages that no episode needs

    make_env = partial(make, env_id, settings)
    try:
        reporting = partial(_reporting, make_env, report, "contract")
        contract.check(reporting, episodes, folders, processes=False)
        if processes:
            report(OTHER_PROCESS)
            contract.check_other_process(make_env, episodes)
    except contract.ContractError as error:
        return str(error)
    except MemoryError:  # whoever set the limit knows it
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary to environments of others
        return f"it raises {error!r}"
    return ""


def _reporting(make_env: Callable[[], TextEnv], report: Report, between: str) -> TextEnv:
    """A new environment that reports where its calls begin, and after each what goes on."""
    env = _reported("make", make_env, report, between)()
    for name in CALLS:
        setattr(env, name, _reported(name, getattr(env, name), report, between))
    return env


def _reported(name: str, method: Callable[P, R], report: Report, between: str) -> Callable[P, R]:
    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        report(name)
        try:
            returned = method(*args, **kwargs)
        finally:
            report(between)
        if isinstance(returned, Iterator):  # which does its work when it is read
            items = _reported(name, returned.__next__, report, between)
            returned = cast(R, _until_stop(items))
        return returned

    return call


def _until_stop(items: Callable[[], T]) -> Iterator[T]:
    while True:
        try:
            item = items()
        except StopIteration:
            return
        yield item


def baseline_floors(
    env_id: str,
    settings: dict[str, object],
    episodes: int,
    seed: int,
    trained: Sequence[Mapping[str, object]],
    report: Report,
) -> list[Floor]:
    """What its baselines score on the episodes of seed, seed + 1, …; none where it has none.

    Raises:
        EnvironmentFailure: it breaks.
    """
    env = _reporting(partial(make, env_id, settings), report, "floors")
    with boundary("baselines"):
        return floors(env, episodes, seed, trained)
