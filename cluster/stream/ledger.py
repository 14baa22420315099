"""The ledger: where each requested episode is. Plain Python, without Ray, threads or a clock.

Queued, running on a worker, ready, taken by an update, trained; or dropped: failed, too old,
foreign or quarantined. Training episodes are admitted in groups, by the rule of `Stream`;
evaluation's come first.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple

from cluster.stream.dynamic_sampling import Selection, complete_updates, select
from cluster.stream.group import Group, S
from cluster.stream.places import Places, Versions
from cluster.stream.suspects import Suspects
from rollout.episode import EpisodeRequest
from rollout.trajectory_summary import TrajectorySummary


@dataclass(frozen=True)
class Stream:
    """What the training episodes are, and how far ahead of the learner they may be played.

    A group that will be trained on by update u (counted from 1, by a learner of version u - 1)
    is played by engines of version u - 1 - max_staleness at least. As all of its tokens are
    then of that version or a newer one, no trajectory is older than the bound when it is taken.
    This is the rule of AReaL (Fu et al. 2025, arXiv 2505.24298, eq. 3), with the version of the
    engine in the place of the learner's, which is ahead of it while weights travel.

    groups: (number, requests) of each group, in the order in which they are trained on.
    groups_per_update: groups of an update; when a group fails, the next one takes its place.
    max_staleness: policy versions that a trajectory may lag.
    first_update: the update that the first group belongs to.
    last_update: no group is admitted for a later one.
    most_passed: groups without signal that an update passes over; others take their places.
    """

    groups: Iterator[tuple[int, list[EpisodeRequest]]]
    groups_per_update: int
    max_staleness: int
    first_update: int
    last_update: int
    most_passed: int = 0


class Batch(NamedTuple, Generic[S]):
    """The episodes of one update.

    results: those that did not fail, first admitted first.
    passed: those of groups that the update passes over, which did not fail either.
    staleness: how many of them are 0, 1, … versions old, up to the bound.
    failed: ids of the episodes that failed since the batch before it was taken.
    next_group: number of the first group that no update has taken; a resume begins with it.
    """

    results: list[S]
    passed: list[S]
    staleness: list[int]
    failed: list[str]
    next_group: int


class Ledger(Generic[S]):
    """Keeps the state of every episode of the run's present epoch.

    An epoch begins with `begin`: a restarted learner plays again what it has not trained on.

    dropped: how many episodes were, by why. This and `trained` count on over all epochs.
    """

    def __init__(self) -> None:
        self._trained = 0
        self.dropped: Counter[str] = Counter()
        self._suspects = Suspects()
        self.forget()

    def forget(self) -> None:
        """Forget all episodes, those that run included: what still comes of them is foreign."""
        self._queue: deque[tuple[EpisodeRequest, Group[S]]] = deque()  # of the stream
        self._urgent: deque[tuple[EpisodeRequest, Group[S]]] = deque()  # of evaluations
        self._lost: deque[tuple[EpisodeRequest, Group[S]]] = deque()  # suspects, of either
        self._own: dict[int, deque[tuple[EpisodeRequest, Group[S]]]] = {}  # for one worker each
        self._suspects.forget()
        self._running: dict[str, tuple[int, EpisodeRequest, Group[S]]] = {}
        self._load: Counter[int] = Counter()  # running episodes by worker
        self._ahead: list[Group[S]] = []  # groups that no update has taken, as admitted
        self._complete = 0  # of the first of them, those that were found finished
        self._ready = 0  # episodes of these groups that have ended well
        self._taken: dict[int, int] = {}  # episodes that ended well, by update
        self._update = 0  # the last one that took a batch
        self._stream: Stream | None = None
        self._next: tuple[int, list[EpisodeRequest]] | None = None
        self._most = 0  # training episodes at once
        self._failures: list[TrajectorySummary] = []
        self.finished = 0  # training episodes since the last batch was taken

    def begin(self, stream: Stream) -> None:
        """Begin an epoch of training, without the episodes of any other."""
        self.forget()
        self._stream, self._update = stream, stream.first_update - 1
        self._next = next(stream.groups, None)
        if self._next is not None:
            ahead = (stream.max_staleness + 1) * stream.groups_per_update
            self._most = ahead * len(self._next[1])

    def request(self, requests: list[EpisodeRequest]) -> Group[S]:
        """Queue episodes outside the stream, before all others; the group says when they end."""
        group: Group[S] = Group(requests)
        self._urgent += [(request, group) for request in requests]
        return group

    def request_of(self, worker: int, requests: list[EpisodeRequest], oldest: int) -> Group[S]:
        """As `request`, for one worker, with weights of version `oldest` or newer.

        Others play them once that worker is lost.
        """
        group: Group[S] = Group(requests, oldest_engine=oldest)
        self._own.setdefault(worker, deque()).extend((request, group) for request in requests)
        return group

    def running(self, worker: int) -> int:
        """How many episodes a worker has."""
        return self._load[worker]

    def assign(self, versions: Versions, capacity: int) -> dict[int, list[EpisodeRequest]]:
        """Give queued episodes to workers, each to the one that has fewest; admits new groups.

        Args:
            versions: of the workers; -1 before an engine's first weights.
            capacity: most episodes of a worker.
        """
        given: dict[int, list[EpisodeRequest]] = {}
        places = Places(versions, capacity, self._most, self._load)
        while (
            (chosen := self._next_suspect(versions, capacity))
            or (chosen := self._next_own(versions, capacity))
            or (chosen := self._next_in_order(places))
        ):
            queue, worker = chosen
            request, group = queue.popleft()
            self._running[request.id] = (worker, request, group)
            self._load[worker] += 1
            given.setdefault(worker, []).append(request)
        return given

    def _next_suspect(
        self, versions: Versions, capacity: int
    ) -> tuple[deque[tuple[EpisodeRequest, Group[S]]], int] | None:
        """A worker for the first suspect."""
        if not self._lost:
            return None
        request, group = self._lost[0]
        running = {name: worker for name, (worker, _, _) in self._running.items()}
        may = self._suspects.places(request.id, range(len(versions)), running)
        those = [v if worker in may else None for worker, v in enumerate(versions)]
        worker = Places(those, capacity, self._most, self._load).least_loaded(group.oldest_engine)
        return None if worker is None else (self._lost, worker)

    def _next_own(
        self, versions: Versions, capacity: int
    ) -> tuple[deque[tuple[EpisodeRequest, Group[S]]], int] | None:
        """A worker with room, and episodes that are for it alone."""
        for worker, queue in self._own.items():
            version = versions[worker] if self._load[worker] < capacity else None
            if queue and version is not None and version >= (queue[0][1].oldest_engine or 0):
                return queue, worker
        return None

    def _next_in_order(
        self, places: Places
    ) -> tuple[deque[tuple[EpisodeRequest, Group[S]]], int] | None:
        """The queue whose first episode is next, and a worker for it."""
        if not self._urgent and not self._queue:
            self._admit(places.newest)
        queue = self._urgent or self._queue
        if not queue:
            return None
        worker = places.least_loaded(queue[0][1].oldest_engine)
        return None if worker is None else (queue, worker)

    def _admit(self, newest: int) -> None:
        """Queue the stream's next group, if an engine of the newest version may play it."""
        stream = self._stream
        if stream is None or self._next is None:
            return
        size, most = stream.groups_per_update, stream.most_passed
        update = self._update + 1 + complete_updates(self._ahead, size, most)
        oldest = max(0, update - 1 - stream.max_staleness)
        if update > stream.last_update or oldest > newest:
            return
        number, requests = self._next
        group: Group[S] = Group(requests, number, oldest)
        self._ahead.append(group)
        self._queue += [(request, group) for request in requests]
        self._next = next(stream.groups, None)

    def finish(self, results: list[S], dropped: str = "failed") -> list[tuple[EpisodeRequest, S]]:
        """Episodes have ended; those that the ledger does not know are foreign, and dropped.

        Args:
            results: of the episodes.
            dropped: under which name failed ones are counted.

        Returns:
            The requests and results of those that it knows.
        """
        known = []
        for result in results:
            worker, request, group = self._running.pop(result.summary.id, (None, None, None))
            if worker is None or request is None or group is None:
                self.dropped["foreign"] += 1
                continue
            known.append((request, result))
            self._suspects.clear(request.id)
            self._load[worker] -= 1
            group.add(result)
            if group.number < 0:
                continue
            self.finished += 1
            if result.summary.end == "failed":
                self.dropped[dropped] += 1
                self._failures.append(result.summary)
            else:
                self._ready += 1
            if group.failed:
                self._ahead.remove(group)
                self._complete = 0
        return known

    @property
    def failures(self) -> list[TrajectorySummary]:
        """Training episodes that failed since the last batch was taken."""
        return self._failures

    def lose(self, worker: int, failed: Callable[[EpisodeRequest, int], S]) -> tuple[int, int]:
        """A worker is gone: its episodes are played elsewhere, before all that is queued.

        All of a question that was the cause of several losses are quarantined
        (`cluster.stream.suspects`), those that still wait too.

        Args:
            worker: its index.
            failed: makes the result of an episode that is quarantined, of its number of losses.

        Returns:
            How many are played again, and how many are quarantined.
        """
        lost = [entry for entry in self._running.values() if entry[0] == worker]
        self._suspects.lose([request for _, request, _ in lost])
        self._take_guilty(worker)
        there = [request for at, request, _ in self._running.values() if at == worker]
        guilty = [request for request in there if self._suspects.guilty(request)]
        results = [failed(request, self._suspects.losses(request)) for request in guilty]
        self.finish(results, "quarantined")
        for _, request, group in reversed(lost):
            if self._running.pop(request.id, None) is None:
                continue
            if request.id in self._suspects:
                self._lost.appendleft((request, group))
            else:
                (self._urgent if group.number < 0 else self._queue).appendleft((request, group))
        self._load[worker] = 0
        self._urgent += self._own.pop(worker, ())
        return sum(not self._suspects.guilty(request) for _, request, _ in lost), len(guilty)

    def _take_guilty(self, worker: int) -> None:
        """Those that wait and are of a guilty question, as if they had run on a worker."""
        for queue in (self._lost, self._urgent, self._queue, *self._own.values()):
            for entry in [entry for entry in queue if self._suspects.guilty(entry[0])]:
                queue.remove(entry)
                self._running[entry[0].id] = (worker, *entry)

    def take(self, update: int) -> Batch[S] | None:
        """The batch of an update, once its groups have finished; None before.

        Groups are taken in the order in which they were admitted, so that short episodes come
        no sooner than long ones. One that is too old is dropped and played again.
        """
        stream = self._stream
        assert stream is not None, "take without begin"
        assert update == self._update + 1, f"update {update} takes after {self._update}"
        selection = self._selected(stream)
        if selection is None:
            return None
        for group in selection.kept:
            self._drop_too_old(group, update - 1 - stream.max_staleness)
        self._complete = 0
        if not all(group.finished for group in selection.kept):
            return None
        del self._ahead[: len(selection.kept) + len(selection.passed)]
        self._update = update
        failed = [summary.id for summary in self._failures]
        self._failures, self.finished = [], 0
        results, passed = (
            [result for group in groups for result in group.ended_well()] for groups in selection
        )
        self._ready -= len(results) + len(passed)
        if passed:
            self.dropped["no signal"] += len(passed)
        self._taken[update] = len(results)
        return Batch(results, passed, self._staleness(results), failed, self.next_group)

    def _selected(self, stream: Stream) -> Selection[Group[S]] | None:
        """What the next update uses up, once all groups up to its last one have finished.

        It is asked after every block, so it goes on where it found one that had not.
        """
        ahead, size = self._ahead, stream.groups_per_update
        while self._complete < len(ahead) and ahead[self._complete].finished:
            self._complete += 1
        if self._complete < size:
            return None
        selection = next(select(ahead[: self._complete], size, stream.most_passed))
        return selection if len(selection.kept) == size else None

    def _staleness(self, results: list[S]) -> list[int]:
        """Trajectories by staleness; the assertion is the invariant staleness-is-bounded."""
        assert self._stream is not None
        counts = [0] * (self._stream.max_staleness + 1)
        for result in results:
            if result.summary.oldest_version >= 0:
                late = self._update - 1 - result.summary.oldest_version
                assert 0 <= late < len(counts), f"{result.summary.id} is {late} versions old"
                counts[late] += 1
        return counts

    def _drop_too_old(self, group: Group[S], oldest: int) -> None:
        """Play episodes again whose oldest action token is of an older version."""
        for request in group.requests:
            if 0 <= group.results[request.id].summary.oldest_version < oldest:
                self._ready -= group.results.pop(request.id).summary.end != "failed"
                self.dropped["too old"] += 1
                self._queue.appendleft((request, group))
                group.oldest_engine = max(0, oldest)

    def trained(self, update: int) -> None:
        """The update has ended: what it took is trained on."""
        self._trained += self._taken.pop(update, 0)

    @property
    def next_group(self) -> int:
        """Number of the first group of the stream that no update has taken."""
        if self._ahead:
            return self._ahead[0].number
        return self._next[0] if self._next is not None else -1

    def states(self) -> dict[str, int]:
        """How many episodes are where now, and how many were trained on and dropped so far."""
        return {
            "queued": sum(map(len, (self._queue, self._urgent, self._lost, *self._own.values()))),
            "running": len(self._running),
            "ready": self._ready,
            "taken": sum(self._taken.values()),
            "trained": self._trained,
            **{f"dropped {why}": n for why, n in sorted(self.dropped.items())},
        }
