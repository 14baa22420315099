"""The pods of a run: how many of which size hold its rollout workers and learner ranks.

Input: a configuration and the options of `cardinal kuberay`. Output: pods as plain numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.placement.layout import weight_channel
from cluster.placement.memory import GIB, object_store, pod_needs, tiny_size
from cluster.placement.plan import groups
from cluster.placement.types import COLOCATED, DATA_CPUS, LEARNER, ROLLOUT, Group, Needs
from configs.load import ConfigError
from configs.model_folder import check_model
from configs.schema import RunConfig

CPUS_A_GPU = 4  # at least: vLLM has a process for each, and episodes play beside them
UNKNOWN_MODEL = 48 * GIB  # host memory of a process whose model is not on this machine


@dataclass(frozen=True)
class ManifestOptions:
    """What a manifest needs besides the run.

    image: with this checkout, as docker/ builds it; None names one of these.
    pull_secrets: Secrets with which nodes fetch it.
    claim: PersistentVolumeClaim that every pod mounts.
    namespace: of all objects; None leaves it to kubectl.
    gpus: whether pods have GPUs.
    pod_size: GPUs of a pod, or without GPUs its processes, at most.
    nodes: labels of the Kubernetes nodes with the GPUs.
    secrets: environment variable to (Secret, key).
    memory: bytes of a worker pod; None estimates it.
    spare: rollout pods beyond those that the workers need: workers are spread over all of them, and
        those of a pod that is lost go on in the others.
    priority_class: of all pods; None leaves it to Kubernetes.
    cluster: a RayCluster alone, to submit to.
    patches: files with JSON patches of the RayJob or RayCluster.
    """

    image: str | None = None
    pull_secrets: Sequence[str] = ()
    claim: str = "cardinal"
    namespace: str | None = None
    gpus: bool = True
    pod_size: int = 8
    nodes: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    memory: int | None = None
    spare: int = 0
    priority_class: str | None = None
    cluster: bool = False
    patches: Sequence[str] = ()


@dataclass(frozen=True)
class Pods:
    """Equal pods.

    name: of their group, and the role whose processes they hold.
    count: how many.
    cpus, gpus, memory: what each requests, memory in bytes.
    object_store: bytes of each pod's memory that Ray's object store takes.
    """

    name: str
    count: int
    cpus: int
    gpus: int
    memory: int
    object_store: int


def worker_pods(cfg: RunConfig, options: ManifestOptions) -> list[Pods]:
    """Pods of rollout workers and of learner ranks; tensor parallelism stays inside a pod.

    Raises:
        ConfigError: a worker has more GPUs than a pod, or the layout needs GPUs.
    """
    weight_channel(cfg, options.gpus)
    rollout, size = cfg.rollout, options.pod_size
    engine_gpus = rollout.tensor_parallel if options.gpus else 1
    if engine_gpus > size:
        raise ConfigError(
            f"rollout.tensor_parallel={engine_gpus}: an engine stays inside a pod, and a pod has "
            f"--pod-size={size} GPUs"
        )
    needs, store = host_memory(cfg, options)
    worker, rank, *_ = groups(cfg, options.gpus, needs)
    if cfg.cluster.layout == "colocated":  # an engine with the ranks whose GPUs it shares
        bundle = dataclasses.replace(
            worker,
            gpus=engine_gpus * rank.gpus,
            cpus=worker.cpus + engine_gpus * rank.cpus,
            memory=worker.memory + engine_gpus * rank.memory,
        )
        if options.spare:
            raise ConfigError(
                f"--spare {options.spare}: with cluster.layout=colocated a worker stays with the "
                "ranks whose GPUs it shares; it must be 0"
            )
        pods = [_pods(COLOCATED, bundle, size // engine_gpus, rollout.threads, store)]
    else:
        pods = [
            _pods(ROLLOUT, worker, size // engine_gpus, rollout.threads, store),
            _pods(LEARNER, rank, size, cfg.learner.threads, store),
        ]
        pods[0] = dataclasses.replace(pods[0], count=pods[0].count + options.spare)
    memory = options.memory
    return [dataclasses.replace(p, memory=memory) for p in pods] if memory else pods


def _pods(name: str, group: Group, most: int, threads: int, object_store: int) -> Pods:
    """As few pods as hold a group, filled alike; CPUs for Ray Data's tasks in each.

    Args:
        name: of the pods.
        group: the processes.
        most: of them in one pod.
        threads: that compute in each.
        object_store: bytes of a pod's object store.
    """
    count = math.ceil(group.count / most)
    processes = math.ceil(group.count / count)
    cpus = math.ceil(max(group.cpus, threads) * processes + DATA_CPUS)
    cpus = max(cpus, CPUS_A_GPU * int(group.gpus) * processes)
    memory = group.memory * processes + object_store
    return Pods(name, count, cpus, int(group.gpus) * processes, memory, object_store)


def known_model(cfg: RunConfig) -> bool:
    """Whether the model's size can be read here, without a download."""
    return cfg.model.path is None or Path(cfg.model.path).is_dir()


def host_memory(cfg: RunConfig, options: ManifestOptions) -> tuple[Needs, int]:
    """Host memory of a rollout worker and of a learner rank, and of a pod's object store."""
    if not known_model(cfg):
        stored = weight_channel(cfg, options.gpus) == "object_store"
        store = UNKNOWN_MODEL if stored else object_store(cfg)
        return Needs(worker=UNKNOWN_MODEL, rank=UNKNOWN_MODEL), store
    size = check_model(cfg.model.path) if cfg.model.path else tiny_size(cfg)
    return pod_needs(cfg, size, options.gpus)
