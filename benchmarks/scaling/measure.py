"""Measures all parts on this machine, and runs small layouts beside them."""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.scaling import layouts
from benchmarks.scaling.parts import HostCosts, Parts
from configs.schema import RunConfig
from report.metrics import Record

T = TypeVar("T")


def _alone(work: Callable[..., T], *args: Any) -> T:
    """In a process of its own: Ray, vLLM and torch's threads do not meet."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *args).result()


def _make_model(folder: Path, cfg: RunConfig) -> None:
    from envs.registry import make
    from learner.init_model import init_model

    init_model(folder, cfg, make(cfg.env.id, dict(cfg.env.settings)).corpus())


def _engine(folder: Path, cfg: RunConfig, rounds: int) -> Any:
    from benchmarks.scaling.measure_engine import measure

    return asyncio.run(measure(folder, cfg, rounds))


def _learner(folder: Path, cfg: RunConfig, lengths: list[tuple[int, int]], rounds: int) -> Any:
    from benchmarks.scaling.measure_learner import measure

    return measure(folder, cfg, lengths, rounds)


def _host(seconds: float) -> Any:
    from benchmarks.scaling.measure_host import measure

    return measure(seconds)


def parts(rounds: int, seconds: float) -> Parts:
    """All parts, of the model and the update of the demo.

    Args:
        rounds: of engine and learner.
        seconds: of each run on the real buffer.
    """
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "model"
        cfg, _ = layouts.configuration(next(iter(layouts.LAYOUTS)), 1000, Path(root))
        wide = replace(cfg, rollout=replace(cfg.rollout, context_tokens=1024))
        _alone(_make_model, folder, wide)
        engine = _alone(_engine, folder, wide, rounds)
        learner = _alone(_learner, folder, cfg, engine.lengths, rounds)
        buffer = _alone(_host, seconds)
    host = HostCosts(
        trajectory_s=learner.trajectory_s,
        own_trajectory_s=learner.own_trajectory_s,
        fetch_s=learner.fetch_s,
        block_s=buffer.block_s,
        buffered_s=buffer.buffered_s,
        call_s=buffer.call_s,
        put_byte_s=engine.put_byte_s,
    )
    return Parts(
        engine.engine,
        learner.step,
        learner.score,
        learner.optimizer_s,
        engine.load_s,
        engine.weights_bytes,
        host,
    )


def rows(
    names: Sequence[str], rounds: int, seconds: float, updates: int, known: Parts | None = None
) -> Iterator[Record]:
    """The parts, then each layout: what its run did, and what the simulation says of it.

    known: parts that were measured before.
    """
    found = known or parts(rounds, seconds)
    if known is None:
        yield {"name": "parts", **found.row()}
    with tempfile.TemporaryDirectory() as root:
        for name in names:
            yield layouts.compare(name, found, layouts.run(name, updates, Path(root)))
