"""A plan on a live Ray: the options that put each process on its node.

Input: a plan, or the connected Ray to make one for. Output: actor options, Ray Train's scaling,
or one sentence that says why the nodes cannot share the run. Every wait has a deadline.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypedDict

import ray
import ray.train
from ray import ObjectRef, PlacementGroupID
from ray.util.placement_group import (
    PlacementGroup,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.failures import PlacementError, RunFailure
from cluster.placement.cards import smallest_card
from cluster.placement.memory import process_needs
from cluster.placement.nodes import plan_live
from cluster.placement.types import LEARNER, RANK, ROLE, ROLLOUT, WORKER, Node, Place, Plan
from cluster.run.run_folder import check_root
from cluster.wait import wait_for
from configs.model_folder import check_model
from configs.schema import RunConfig

CARDS_S = 30.0  # for nodes to say what their GPUs have
# Ray sends a small result to its caller's heap, and never frees it there once others have borrowed
# it (ray-project/ray#30343): blocks of trajectories go to the object store, however small.
IN_OBJECT_STORE = {"env_vars": {"RAY_max_direct_call_object_size": "1024"}}
# An affinity that is soft holds for what asks for a resource: the rest goes to a random node.
A_BYTE = 1.0


class ActorOptions(TypedDict, total=False):
    """Of `Actor.options(...)`, as far as a placement sets them."""

    num_cpus: float
    num_gpus: float
    memory: float
    accelerator_type: str | None
    label_selector: dict[str, str] | None
    max_restarts: int
    runtime_env: dict[str, dict[str, str]]
    scheduling_strategy: NodeAffinitySchedulingStrategy


def place(cfg: RunConfig, model: str, learn: bool = True) -> Plan:
    """The plan for the Ray that this process has joined.

    Args:
        cfg: the run.
        model: folder of the policy that it starts from.
        learn: False places rollout workers only (evaluation).

    Raises:
        PlacementError: the run does not fit, or the nodes do not share cluster.root and the model.
        DeadlineExceeded: a node does not answer.
    """
    size = check_model(model)
    address = ray.get_runtime_context().gcs_address
    plan = plan_live(cfg, address, partial(process_needs, cfg, size), learn, measured_cards())
    check_root(cfg, len(plan.hosts()))
    check_shared_storage(Path(cfg.cluster.root), model, plan, cfg.cluster.start_deadline_s)
    return plan


def measured_cards() -> Callable[[Sequence[Node]], list[Node]]:
    """Puts into nodes the memory of their GPUs; each is asked once, on itself."""
    task = ray.remote(num_cpus=0, max_retries=0)(smallest_card)
    known: dict[str, int | None] = {}

    def ask(node: Node) -> ObjectRef[int | None]:
        affinity = NodeAffinitySchedulingStrategy(node.id, soft=False)
        return task.options(scheduling_strategy=affinity).remote(int(node.total["GPU"]))

    def measured(nodes: Sequence[Node]) -> list[Node]:
        new = [node for node in nodes if node.total.get("GPU") and node.id not in known]
        calls, end = [ask(node) for node in new], time.monotonic() + CARDS_S
        for node, call in zip(new, calls, strict=True):
            known[node.id] = None  # also of one that does not answer: the run may not need it
            with suppress(RunFailure):
                left = end - time.monotonic()
                known[node.id] = wait_for(call, f"node {node.name}", "ask its GPUs", left, "")
        return [replace(node, card=known.get(node.id)) for node in nodes]

    return measured


def worker_options(place: Place) -> ActorOptions:
    """Ray's options of the rollout actor at this place.

    On its node, or where that is gone on another one that the plan might have chosen: Ray restarts
    an actor that dies, as often as the supervisor lets it. A colocated one is bound to its node; it
    reserves no GPU, and is given those of its ranks once Ray has given them theirs
    (`cluster.phases.shared_gpus`).
    """
    node, kind = place.node, place.node.accelerator  # another type may have less memory
    selector = {ROLE: f"!in({LEARNER})"} if ROLE in node.labels else None
    return ActorOptions(
        num_cpus=place.cpus,
        num_gpus=place.gpus,
        accelerator_type=kind if place.gpus and f"accelerator_type:{kind}" in node.total else None,
        label_selector=selector,
        memory=A_BYTE,
        max_restarts=-1,
        runtime_env=IN_OBJECT_STORE,
        scheduling_strategy=NodeAffinitySchedulingStrategy(
            place.node.id, soft=not place.colocated_ranks
        ),
    )


def buffer_options(plan: Plan, replaceable: bool) -> ActorOptions:
    """Ray's options of the trajectory buffer: where rank 0 (or a worker) is, so off an idle head.

    Soft: it may live elsewhere if that node is gone. Ray restarts it where a new one could bring
    weights to the engines.
    """
    neighbour = (plan.of(RANK) or plan.of(WORKER))[0]
    affinity = NodeAffinitySchedulingStrategy(neighbour.node.id, soft=True)
    restarts = -1 if replaceable else 0
    return ActorOptions(memory=A_BYTE, max_restarts=restarts, scheduling_strategy=affinity)


def scaling(cfg: RunConfig, plan: Plan) -> ray.train.ScalingConfig:
    """Ray Train's own placement group: packed, off the nodes that the plan gives to others.

    Nodes are excluded rather than named, so that a restarted group may use one that joined later.
    """
    each = plan.of(RANK)[0]
    closed = plan.closed_to_ranks()
    selector = {"ray.io/node-id": f"!in({','.join(closed)})"} if closed else {}
    if any(ROLE in node.labels for node in plan.nodes):
        selector[ROLE] = f"!in({ROLLOUT})"  # of nodes that join later, too
    return ray.train.ScalingConfig(
        num_workers=len(plan.of(RANK)),
        use_gpu=plan.gpu,
        resources_per_worker={"CPU": each.cpus} | ({"GPU": each.gpus} if plan.gpu else {}),
        placement_strategy="PACK",
        accelerator_type=cfg.cluster.accelerator if plan.gpu else None,
        label_selector=selector or None,  # type: ignore[call-arg]
    )


def release_ranks() -> None:
    """End what is left of this job's learner groups, and give back the places of their ranks.

    Ray keeps a placement group until the job ends, where the actor that made it has died.
    """
    job = ray.get_runtime_context().get_job_id()
    for name, group in placement_group_table().items():
        if name.endswith(job) and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


def waiting_ranks(plan: Plan, seconds: float) -> str:
    """Why Ray Train's placement group was not met, for who waited `seconds` for it."""
    ranks = plan.of(RANK)
    each = f"{ranks[0].cpus:g} CPU" + (f" + {ranks[0].gpus:g} GPU" if ranks[0].gpus else "")
    names = ", ".join(node.name for node in plan.hosts(RANK))
    return (
        f"{len(ranks)} learner ranks waited {seconds:g} s (cluster.start_deadline_s) for {each} "
        f"each, planned on {names}: somebody else has taken them since"
    )


def check_shared_storage(root: Path, model: str, plan: Plan, deadline_s: float) -> None:
    """Refuse nodes that do not see what this one writes.

    Args:
        root: folder of run folders; made if it is not there.
        model: folder of the model.
        plan: its nodes are asked, this process's own is not.
        deadline_s: how long a node may take to answer.

    Raises:
        PlacementError: names the node and the folder.
        DeadlineExceeded: a node gave no answer.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in plan.hosts() if node.id != here]
    if not others:
        return
    root.mkdir(parents=True, exist_ok=True)
    mark = root / f".cardinal-{uuid.uuid4().hex}"
    mark.write_text("")
    try:
        task = ray.remote(num_cpus=0, max_retries=0)(_missing)
        calls = []
        for node in others:
            affinity = NodeAffinitySchedulingStrategy(node.id, soft=False)
            calls.append(task.options(scheduling_strategy=affinity).remote([str(mark), model]))
        for node, call in zip(others, calls, strict=True):
            who = f"node {node.name}"
            missing = wait_for(call, who, "look into cluster.root", deadline_s, "start_deadline_s")
            if missing:
                folder = root if str(mark) in missing else model
                raise PlacementError(
                    f"{who} does not see {folder}, which this one does: the run spans several "
                    "nodes without shared storage; cluster.root and model.path must be folders "
                    "that all of them share"
                )
    finally:
        mark.unlink(missing_ok=True)


def _missing(paths: list[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]
