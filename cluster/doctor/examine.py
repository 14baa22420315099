"""The list of checks, and how they are made: one after another, each with a deadline.

Input: a run, an address or none. Output: results as they come. A check that fails stops no other;
what needs a Ray is left out where none could be joined.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from cluster.doctor import gpus, machine, versions
from cluster.doctor.machine import Subject
from cluster.doctor.result import Finding, Result, fault, not_applicable, ok
from cluster.failures import RunFailure, first_line
from cluster.placement.memory import available_bytes, tiny_size
from cluster.placement.nodes import address_of, with_deadline
from cluster.preflight.early import refuse_model
from cluster.preflight.machine import plan_here
from configs.load import ConfigError
from configs.model_folder import ModelSize, on_hub, weights_size
from configs.schema import RunConfig

MACHINE_S, NODES_S = 30.0, 120.0  # for one check


@dataclass(frozen=True)
class Check:
    """A check of a machine."""

    name: str
    find: Callable[[Subject], Finding]
    deadline_s: float = MACHINE_S


def _versions(subject: Subject) -> Finding:
    return versions.check_versions(subject.requirements)


MACHINE = (
    Check("versions", _versions),
    Check("open files", machine.open_files),
    Check("folders", machine.folders),
    Check("memory", machine.memory),
    Check("disk", machine.disk),
    Check("shared memory", machine.shared_memory),
    Check("ports", machine.ports),
    Check("GPUs", gpus.gpus, deadline_s=90.0),
    Check("GPU links", gpus.links, deadline_s=90.0),
    Check("compiler", gpus.compiler, deadline_s=90.0),
)


def examine(cfg: RunConfig, named: bool) -> Iterator[Result]:
    """Make all checks.

    Args:
        cfg: a run; its cluster.address says where, and none means this machine alone.
        named: whether the user has chosen it, so that its model and placement are of interest.
    """
    yield made("model", "", lambda: _model(cfg), MACHINE_S)
    subject = subject_of(cfg)
    yield from on_this_machine(subject)
    if subject.starts_ray:
        yield made("placement", "", lambda: _placement_here(subject, named), MACHINE_S)
    yield from _on_ray(subject, named)


def subject_of(cfg: RunConfig) -> Subject:
    """What is looked for on each machine for a run."""
    local = address_of(cfg.cluster.address) is None
    return Subject(cfg, _size(cfg), versions.read_requirements(), starts_ray=local)


def on_this_machine(subject: Subject) -> Iterator[Result]:
    """The checks of a machine, here."""
    for check in MACHINE:
        yield made(check.name, "", partial(check.find, subject), check.deadline_s)


def made(name: str, where: str, find: Callable[[], Finding], seconds: float) -> Result:
    """The result of one check; whatever it raises is its fault, and no other's."""
    begin = time.monotonic()
    try:
        finding = with_deadline(seconds, lambda: _found(find), f"{name} is not known")
    except ConfigError as late:
        finding = fault(str(late), "see what hangs there: a disk, a driver or a network")
    return Result(name, where, finding, time.monotonic() - begin)


def _found(find: Callable[[], Finding]) -> Finding:
    try:
        return find()
    except (ConfigError, RunFailure) as refusal:  # it says what to do
        return fault(str(refusal))
    except Exception as error:  # noqa: BLE001 - a check's boundary: the next ones are made
        return fault(first_line(error), "an error of the check itself; please report it")


def _model(cfg: RunConfig) -> Finding:
    """The files of model.path."""
    path = cfg.model.path
    if path is None:
        return not_applicable("model.path is null: a run makes a tiny model")
    if on_hub(path):
        return not_applicable(f"model.path={path} is a name on the hub, which a run downloads")
    refuse_model(cfg, path)
    size = weights_size(path)
    return ok(f"{path} has {sum(size.parameters.values()):,} parameters")


def _size(cfg: RunConfig) -> ModelSize:
    """Of the policy; of a tiny one where its own is not known here."""
    path = cfg.model.path
    try:
        return tiny_size(cfg) if path is None or on_hub(path) else weights_size(path)
    except ConfigError:  # which is the fault of `model`
        return tiny_size(cfg)


def _placement_here(subject: Subject, named: bool) -> Finding:
    if not named:
        return not_applicable("no configuration was named")
    plan_here(subject.cfg, subject.size, available_bytes())
    return ok("the run's processes fit this machine")


def _on_ray(subject: Subject, named: bool) -> Iterator[Result]:
    """What needs a Ray: that of the address, or one that is started here and ended again."""
    from cluster.doctor import all_reduce, nodes, trials

    with ExitStack() as stack:
        begin, cluster = time.monotonic(), None
        try:
            cluster = stack.enter_context(nodes.joined(subject, trials.processors()))
            finding = ok(f"{len(cluster.nodes)} node{'s' * (len(cluster.nodes) > 1)}")
        except (ConfigError, RunFailure, OSError) as refusal:
            finding = fault(str(refusal), "no other check that needs Ray is made before it")
        yield Result("Ray", "", finding, time.monotonic() - begin)
        if cluster is None:
            return
        where = f"{len(cluster.others)} other node{'s' * (len(cluster.others) > 1)}"
        for check in MACHINE if cluster.others else ():
            find = partial(nodes.elsewhere, check.find, cluster)
            yield made(check.name, where, find, NODES_S)
        for name, find_between in (
            ("clocks", nodes.clocks),
            ("shared folder", nodes.shared_folder),
            ("all_reduce gloo", all_reduce.gloo),
            ("all_reduce nccl", all_reduce.nccl),
        ):
            yield made(name, "", partial(find_between, cluster), NODES_S)
        if not subject.starts_ray and named:
            yield made("placement", "", partial(nodes.placement, cluster), NODES_S)
        yield from trials.run_trials(cluster)
