"""Measures all parts on this machine, and runs small layouts beside them."""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.scaling import layouts
from benchmarks.scaling.parts import Parts
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


def parts(known: Sequence[Record], rounds: int, seconds: float) -> Iterator[Record]:
    """A row for each kind of part that is not known yet, of the model and update of the demo.

    Args:
        known: rows that were measured before.
        rounds: of engine and learner.
        seconds: of each run on the real buffer.
    """
    rows = {row["name"]: row for row in known}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "model"
        cfg, _ = layouts.configuration(next(iter(layouts.LAYOUTS)), 1000, Path(root))
        wide = replace(cfg, rollout=replace(cfg.rollout, context_tokens=1024))
        if {"engine", "learner"} - set(rows):
            _alone(_make_model, folder, wide)
        if "engine" not in rows:
            rows["engine"] = {"name": "engine", **asdict(_alone(_engine, folder, wide, rounds))}
            yield rows["engine"]
        if "learner" not in rows:
            lengths = rows["engine"]["lengths"]
            found = _alone(_learner, folder, cfg, lengths, rounds)
            yield {"name": "learner", **asdict(found)}
    if "buffer" not in rows:
        yield {"name": "buffer", **_alone(_host, seconds)._asdict()}


def rows(
    known: Sequence[Record], names: Sequence[str], rounds: int, seconds: float, updates: int
) -> Iterator[Record]:
    """What is not known yet: parts, and layouts: what each run did, and what is predicted of it."""
    found = list(known)
    for row in parts(known, rounds, seconds):
        found.append(row)
        yield row
    done = [row["layout"] for row in known if row["name"] == "layout"]
    with tempfile.TemporaryDirectory() as root:
        for name in names:
            if name not in done:
                run = layouts.run(name, updates, Path(root))
                yield layouts.compare(name, Parts.of(found), run)
