"""The nodes of a Ray: each machine's own checks there, clocks, and the shared folder.

Input: a `Cluster`, once this process has joined its Ray. Output: a `Finding`. Every wait has a
deadline; a node that does not answer is at fault, and the others are asked all the same.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.doctor.machine import SMALLEST, Subject
from cluster.doctor.result import Finding, fault, not_applicable, of_nodes, ok, warning
from cluster.driver.session import session
from cluster.failures import PlacementError, RunFailure, first_line
from cluster.placement.memory import process_needs
from cluster.placement.nodes import live_nodes, plan_live
from cluster.placement.ray_options import check_shared_storage, measured_cards
from cluster.placement.types import Node, Place, Plan
from configs.load import ConfigError, load

T = TypeVar("T")
ANSWER_S = 45.0  # for a node to start a process and answer
START_S = 90.0  # for a local Ray to start
SKEW_S, TOO_MUCH_SKEW_S = 2.0, 900.0  # object storage refuses requests of a clock so wrong
ONE = "there is one node"


@dataclass(frozen=True)
class Cluster:
    """The Ray that this process is a member of.

    nodes: all that live.
    here: id of this process's own.
    """

    subject: Subject
    nodes: tuple[Node, ...]
    here: str

    @property
    def others(self) -> tuple[Node, ...]:
        """All nodes but this process's own."""
        return tuple(node for node in self.nodes if node.id != self.here)


@contextmanager
def joined(subject: Subject, processors: float) -> Iterator[Cluster]:
    """The Ray at cluster.address, or one that is started here with so many processors.

    Raises:
        ConfigError, RunFailure: as `session.session`.
    """
    cluster = replace(load(SMALLEST).cluster, address=subject.cfg.cluster.address)
    cfg = replace(subject.cfg, cluster=replace(cluster, start_deadline_s=START_S))
    with session(cfg, processors):
        context = ray.get_runtime_context()
        nodes = tuple(live_nodes(context.gcs_address))
        yield Cluster(subject, nodes, context.get_node_id())


def on_nodes(
    nodes: Sequence[Node], calls: Sequence[Callable[[], T]], seconds: float, gpus: int = 0
) -> list[T | RunFailure]:
    """What each node answers to its call, or why it does not; all are asked at once."""
    task = ray.remote(num_cpus=0, num_gpus=gpus, max_retries=0)(_call)
    refs = []
    for node, call in zip(nodes, calls, strict=True):
        affinity = NodeAffinitySchedulingStrategy(node.id, soft=False)
        refs.append(task.options(scheduling_strategy=affinity).remote(call))
    end = time.monotonic() + seconds
    answers: list[T | RunFailure] = []
    for ref in refs:
        try:
            answers.append(cast("T", ray.get(ref, timeout=max(0.0, end - time.monotonic()))))
        except GetTimeoutError:
            ray.cancel(ref, force=True)
            answers.append(RunFailure(f"does not answer within {seconds:g} s"))
        except RayError as error:
            answers.append(RunFailure(first_line(error)))
    return answers


def _call(call: Callable[[], object]) -> object:
    return call()


def elsewhere(find: Callable[[Subject], Finding], cluster: Cluster) -> Finding:
    """A machine's check on all other nodes."""
    calls = [partial(_found, find, cluster.subject)] * len(cluster.others)
    answers = on_nodes(cluster.others, calls, ANSWER_S)
    named = zip((node.name for node in cluster.others), answers, strict=True)
    return of_nodes({n: fault(str(a)) if isinstance(a, RunFailure) else a for n, a in named})


def _found(find: Callable[[Subject], Finding], subject: Subject) -> Finding:
    """The finding, also where it is a refusal."""
    try:
        return find(subject)
    except (ConfigError, PlacementError) as error:
        return fault(str(error))


def clocks(cluster: Cluster) -> Finding:
    """How far other nodes' clocks are from this one's, at least."""
    if not cluster.others:
        return not_applicable(ONE)
    begin = time.time()
    answers = on_nodes(cluster.others, [time.time] * len(cluster.others), ANSWER_S)
    end = time.time()
    findings = {}
    for node, there in zip(cluster.others, answers, strict=True):
        if isinstance(there, RunFailure):
            findings[node.name] = fault(f"its clock is not known: {there}")
        else:
            findings[node.name] = judge_clock(max(begin - there, there - end, 0.0))
    return of_nodes(findings)


def judge_clock(skew: float) -> Finding:
    """The finding on a clock that is wrong by so many seconds."""
    remedy = "run chrony or another NTP client on every node"
    if skew >= TOO_MUCH_SKEW_S:
        words = "object storage refuses such requests, and the run's records are out of order"
        return fault(f"its clock differs by {skew:.0f} s: {words}", remedy, skew_s=skew)
    if skew >= SKEW_S:
        words = "traces and records of its processes are out of order"
        return warning(f"its clock differs by {skew:.1f} s: {words}", remedy, skew_s=skew)
    return ok(f"no clock differs by {SKEW_S:g} s", skew_s=skew)


def shared_folder(cluster: Cluster) -> Finding:
    """Whether each node sees what this one writes to cluster.root, and this one what they write."""
    if not cluster.others:
        return not_applicable(ONE)
    cfg = cluster.subject.cfg
    root = Path(cfg.cluster.root)
    remedy = "mount one shared file system (NFS, Lustre, a ReadWriteMany claim) there on all nodes"
    if not root.is_absolute():
        return fault(f"cluster.root={root}: is relative, so that each node has its own", remedy)
    places = tuple(Place("node", i, node, 0.0, 0.0) for i, node in enumerate(cluster.nodes))
    plan = Plan((), places, cluster.nodes)
    try:
        check_shared_storage(root, cfg.model.path or str(root), plan, ANSWER_S)
    except RunFailure as error:
        return fault(str(error), remedy)
    marks = [root / f".cardinal-{uuid.uuid4().hex}" for _ in cluster.others]
    try:
        answers = on_nodes(cluster.others, [partial(_write, mark) for mark in marks], ANSWER_S)
        for node, mark, answer in zip(cluster.others, marks, answers, strict=True):
            if isinstance(answer, RunFailure):
                return fault(f"node {node.name} cannot write to {root}: {answer}", remedy)
            if not mark.exists():
                return fault(f"what node {node.name} writes to {root} is not seen here", remedy)
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)
    return ok(f"{len(cluster.nodes)} nodes read and write {root}")


def _write(mark: Path) -> None:
    mark.write_text("")


def placement(cluster: Cluster) -> Finding:
    """Whether the cluster holds the run."""
    subject = cluster.subject
    address = ray.get_runtime_context().gcs_address
    needs = partial(process_needs, subject.cfg, subject.size)
    plan = plan_live(subject.cfg, address, needs, measured=measured_cards())
    counts = ", ".join(f"{group.count} {group.role}" for group in plan.groups)
    names = ", ".join(node.name for node in plan.hosts())
    return ok(f"{counts} fit {names}")
