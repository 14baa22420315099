"""The trajectory buffer: references to blocks and a few numbers of each trajectory.

It asks workers for their next block, so it owns the references and a worker's death loses no
finished block. Law 4: it never holds an array. What it admits obeys law 7.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from cluster.failures import DeadlineExceeded, TooManyFailures, WorkerLost, first_line
from rollout.episode import EpisodeRequest
from rollout.trajectory_summary import TrajectorySummary, from_columns


@dataclass(frozen=True)
class Entry:
    """Where a trajectory lies, and its numbers."""

    block: Any
    row: int
    numbers: TrajectorySummary


@ray.remote(num_cpus=0, max_concurrency=8)  # type: ignore[call-overload]
class TrajectoryBuffer:
    """Collects requested episodes and hands them to learner ranks."""

    def __init__(
        self, workers: list[Any], block_deadline_s: float, max_failure_rate: float
    ) -> None:
        self._workers = workers
        self._deadline = block_deadline_s
        self._max_failure_rate = max_failure_rate
        self._entries: list[Entry] = []

    async def collect(
        self, requests: list[EpisodeRequest], version: int = 0, max_staleness: int | None = None
    ) -> list[TrajectorySummary]:
        """Have episodes played; replaces what the buffer held.

        Args:
            requests: what to play; workers take turns.
            version: the learner's policy version.
            max_staleness: versions that a trajectory may lag; an older one is played again.
                None admits all (evaluation).

        Returns:
            Numbers of all trajectories, failed ones too, in the order of their ids.

        Raises:
            DeadlineExceeded: a worker gave no block in time.
            WorkerLost: a worker died.
            TooManyFailures: names the first cause.
        """
        admitted: list[Entry] = []
        wanted = {request.id: request for request in requests}
        while wanted:
            left, workers = list(wanted.values()), len(self._workers)
            shares = [left[i::workers] for i in range(workers)]
            played = await asyncio.gather(
                *(self._play(i, share) for i, share in enumerate(shares) if share)
            )
            fresh = [e for part in played for e in part
                     if not _too_old(e.numbers, version, max_staleness)]  # fmt: skip
            admitted += fresh
            for entry in fresh:
                wanted.pop(entry.numbers.id)
        admitted.sort(key=lambda entry: entry.numbers.id)
        self._check_failures(admitted)
        self._entries = [e for e in admitted if e.numbers.end != "failed"]
        return [entry.numbers for entry in admitted]

    async def _play(self, index: int, requests: list[EpisodeRequest]) -> list[Entry]:
        worker = self._workers[index]
        entries: list[Entry] = []
        await self._answer(index, "take requests", worker.submit.remote(requests))
        while len(entries) < len(requests):
            block, numbers = worker.next_block.remote()
            columns = await self._answer(index, "finish a block of episodes", numbers)
            entries += [Entry(block, row, n) for row, n in enumerate(from_columns(columns))]
        return entries

    async def _answer(self, index: int, what: str, ref: Any) -> Any:
        who = f"rollout worker {index}"
        try:
            return await asyncio.wait_for(ref, self._deadline)
        except TimeoutError as error:
            raise DeadlineExceeded(who, what, self._deadline, "block_deadline_s") from error
        except (RayActorError, RayTaskError) as error:
            raise WorkerLost(who, what, first_line(error)) from error

    def _check_failures(self, entries: list[Entry]) -> None:
        failed = [e.numbers for e in entries if e.numbers.end == "failed"]
        if len(failed) > self._max_failure_rate * len(entries):
            raise TooManyFailures(
                f"{len(failed)} of {len(entries)} trajectories failed, more than "
                f"cluster.max_failure_rate = {self._max_failure_rate:g}; the first, "
                f"{failed[0].id}: {failed[0].failure}"
            )

    def assignments(self, ranks: int) -> list[list[tuple[Any, list[int]]]]:
        """For each rank its (block reference, rows); balanced by tokens, deterministic."""
        loads = [0] * ranks
        rows: list[dict[Any, list[int]]] = [{} for _ in range(ranks)]
        for entry in sorted(self._entries, key=lambda e: (-e.numbers.tokens, e.numbers.id)):
            rank = loads.index(min(loads))
            loads[rank] += entry.numbers.tokens
            rows[rank].setdefault(entry.block, []).append(entry.row)
        return [list(blocks.items()) for blocks in rows]

    def sample(self, n: int) -> list[tuple[Any, list[int]]]:
        """(block reference, rows) of the first n trajectories by id."""
        first = sorted(self._entries, key=lambda e: e.numbers.id)[:n]
        return [(entry.block, [entry.row]) for entry in first]

    def drop(self) -> None:
        """Let go of all references."""
        self._entries = []


def _too_old(numbers: TrajectorySummary, version: int, max_staleness: int | None) -> bool:
    if max_staleness is None or numbers.oldest_version < 0:
        return False
    return version - numbers.oldest_version > max_staleness
