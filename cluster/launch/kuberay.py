"""`cardinal kuberay`: a configuration in, a KubeRay manifest out, as plain dicts and as YAML.

A RayJob with its own cluster, or a RayCluster to submit to: a head without work, pods of rollout
workers, pods of learner ranks, one storage claim. Knows no Kubernetes and starts nothing.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cluster.placement.layout import weight_channel
from cluster.placement.plan import DATA_CPUS, Group, Needs, groups
from cluster.preflight.check import BYTES, PROCESS_BYTES, memory_bytes
from configs.load import ConfigError, dump
from configs.model_folder import ModelSize, check_model, on_hub
from configs.schema import RunConfig

GIB = 2**30
STORAGE, CONFIG = "/mnt/cardinal", "/etc/cardinal/config.yaml"
RAY, USER = "2.60.0", 1000  # of the images in docker/
DASHBOARD, AGENT, GCS, METRICS = 8265, 52365, 6379, 8080
UNKNOWN_MODEL = 48 * GIB  # host memory of a process whose model is not on this machine
GPU_PROCESS = 6 * GIB  # of a process with CUDA's libraries
TINY_VOCABULARY = 512  # at most, of a model that is made
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True)
class Options:
    """What a manifest needs to know beside the run.

    image: with this checkout, as docker/ builds it; None names one of these.
    claim: PersistentVolumeClaim that every pod mounts at STORAGE.
    namespace: of all objects; None leaves it to kubectl.
    gpus: whether pods have GPUs.
    pod_size: GPUs of a pod, or without GPUs its processes, at most.
    nodes: labels of the Kubernetes nodes with the GPUs.
    secrets: environment variable to (Secret, key).
    memory: bytes of a worker pod; None estimates it.
    spare: rollout pods that the autoscaler may add.
    cluster: a RayCluster alone, to submit to.
    """

    image: str | None = None
    claim: str = "cardinal"
    namespace: str | None = None
    gpus: bool = True
    pod_size: int = 8
    nodes: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    memory: int | None = None
    spare: int = 1
    cluster: bool = False


@dataclass(frozen=True)
class Pods:
    """Equal pods of one role: how many, and what each asks of its node (memory, shm: bytes)."""

    name: str
    count: int
    cpus: int
    gpus: int
    memory: int
    shm: int


def render(cfg: RunConfig, options: Options) -> str:
    """The manifest as YAML, ready for `kubectl apply`.

    Raises:
        ConfigError: names that Kubernetes does not take, or a worker that no pod holds.
    """
    return yaml.dump_all(manifest(cfg, options), Dumper=_Dumper, sort_keys=False, width=100)


def manifest(cfg: RunConfig, options: Options) -> list[dict[str, Any]]:
    """The manifest's objects: ConfigMap and RayJob, or one RayCluster."""
    name = object_name(cfg.name)
    spec = cluster_spec(cfg, options)
    if options.cluster:
        return [_object("ray.io/v1", "RayCluster", name, options, spec=spec)]
    mount = _volume("config", {"configMap": {"name": f"{name}-config"}}, str(Path(CONFIG).parent))
    _add(spec["headGroupSpec"], *mount)
    job = {
        "entrypoint": f"python -m cluster.cli train {CONFIG} --resume",
        "runtimeEnvYAML": yaml.safe_dump(
            {"env_vars": {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}}
        ),
        "backoffLimit": 2,  # a new cluster, on which the run goes on
        "preRunningDeadlineSeconds": 1800,  # pods that find no place are told of, not waited for
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "rayClusterSpec": spec,
    }
    text = _Text(dump(on_storage(cfg)))
    return [
        _object("v1", "ConfigMap", f"{name}-config", options, data={"config.yaml": text}),
        _object("ray.io/v1", "RayJob", name, options, spec=job),
    ]


def on_storage(cfg: RunConfig) -> RunConfig:
    """The run as it is on the cluster: relative paths lie on the storage claim."""

    def there(path: str) -> str:
        return str(Path(STORAGE) / path)

    model, sft = cfg.model, cfg.sft
    folder = model.path and not on_hub(model.path)
    return dataclasses.replace(
        cfg,
        model=dataclasses.replace(model, path=there(str(model.path)) if folder else model.path),
        sft=dataclasses.replace(sft, data=sft.data and there(sft.data)),
        cluster=dataclasses.replace(cfg.cluster, address=None, root=there(cfg.cluster.root)),
    )


def object_name(name: str) -> str:
    """A run's name as Kubernetes takes it.

    Raises:
        ConfigError: nothing of it is left, or it is too long for KubeRay's own endings.
    """
    plain = name.lower().replace("_", "-").replace(".", "-")
    if not NAME.fullmatch(plain) or len(plain) > 40:
        raise ConfigError(
            f"name={name}: Kubernetes wants a-z, 0-9 and - between them, at most 40 characters"
        )
    return plain


def cluster_spec(cfg: RunConfig, options: Options) -> dict[str, Any]:
    """RayClusterSpec: the head, and a group of pods for each of `worker_pods`."""
    return {
        "rayVersion": RAY,
        "authOptions": {"mode": "token"},  # an open job server runs anyone's code
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"idleTimeoutSeconds": 600, "upscalingMode": "Default"},
        "headGroupSpec": _head(options),
        "workerGroupSpecs": [_group(pods, options) for pods in worker_pods(cfg, options)],
    }


def worker_pods(cfg: RunConfig, options: Options) -> list[Pods]:
    """Pods of rollout workers and of learner ranks; tensor parallelism stays inside a pod.

    Raises:
        ConfigError: a worker has more GPUs than a pod, or the layout needs GPUs.
    """
    weight_channel(cfg, options.gpus)
    rollout, size = cfg.rollout, options.pod_size
    each = rollout.tensor_parallel if options.gpus else 1
    if each > size:
        raise ConfigError(
            f"rollout.tensor_parallel={each}: an engine stays inside a pod, and a pod has "
            f"--pod-size={size} GPUs"
        )
    on_worker, on_rank, store = host_bytes(cfg, options)
    worker, rank, *_ = groups(cfg, options.gpus, Needs(on_worker, on_rank))
    if cfg.cluster.layout == "colocated":  # an engine on the GPUs of `each` ranks
        shared = dataclasses.replace(
            worker, gpus=each * rank.gpus, cpus=worker.cpus + each * rank.cpus,
            memory=worker.memory + each * rank.memory,
        )  # fmt: skip
        pods = [_pods("colocated", shared, size // each, rollout.threads, store)]
    else:
        pods = [
            _pods("rollout", worker, size // each, rollout.threads, store),
            _pods("learner", rank, size, cfg.learner.threads, store),
        ]
    memory = options.memory
    return [dataclasses.replace(p, memory=memory) for p in pods] if memory else pods


def _pods(name: str, group: Group, most: int, threads: int, store: int) -> Pods:
    """As few pods as hold a group, filled alike; room for Ray Data's tasks in each.

    Args:
        name: of the pods.
        group: the processes.
        most: of them in one pod.
        threads: that compute in each.
        store: bytes of a pod's object store.
    """
    count = math.ceil(group.count / most)
    here = math.ceil(group.count / count)
    cpus = math.ceil(max(group.cpus, threads) * here + DATA_CPUS)
    return Pods(name, count, cpus, int(group.gpus) * here, group.memory * here + store, store)


def known_model(cfg: RunConfig) -> bool:
    """Whether the model's size can be told here, without a download."""
    return cfg.model.path is None or Path(cfg.model.path).is_dir()


def host_bytes(cfg: RunConfig, options: Options) -> tuple[int, int, int]:
    """Host memory of a rollout worker and of a learner rank, and of a pod's object store."""
    if not known_model(cfg):
        return UNKNOWN_MODEL, UNKNOWN_MODEL, UNKNOWN_MODEL
    if cfg.model.path:
        size = check_model(cfg.model.path)
    else:
        made = cfg.model.init
        layer = 4 * made.hidden**2 + 3 * made.hidden * made.mlp
        count = made.layers * layer + 2 * TINY_VOCABULARY * made.hidden
        size = ModelSize({"all": count}, made.layers, made.hidden, TINY_VOCABULARY, None)
    weights = sum(size.parameters.values()) * BYTES[cfg.model.dtype]
    store = int(cfg.cluster.object_store_gib * GIB) + 2 * weights  # two versions pass through
    memory, ranks = memory_bytes(cfg, size), cfg.learner.ranks
    if options.gpus:  # the rest is on the GPUs; a rank gathers all weights to publish and to save
        moved = memory["learner optimizer"] // ranks if cfg.learner.offload else 0
        return GPU_PROCESS + weights, GPU_PROCESS + 2 * weights + moved, store
    learner = sum(v for k, v in memory.items() if k.startswith(("learner", "reference")))
    engine = sum(v for k, v in memory.items() if k.startswith("engine")) // cfg.rollout.workers
    return engine + 2 * PROCESS_BYTES, learner // ranks + weights + 2 * PROCESS_BYTES, store


def pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """LABEL=VALUE each.

    Raises:
        ConfigError: one is not.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"{option} {text}: must have the form NAME=VALUE")
        found[name] = value
    return found


def secrets(texts: Sequence[str]) -> dict[str, tuple[str, str]]:
    """NAME=SECRET/KEY each: the manifest names a Secret, and never holds its value.

    Raises:
        ConfigError: one is not.
    """
    found = {}
    for name, place in pairs("--secret", texts).items():
        secret, slash, key = place.partition("/")
        if not (NAME.fullmatch(secret) and slash and key):
            raise ConfigError(f"--secret {name}={place}: must have the form NAME=SECRET/KEY")
        found[name] = secret, key
    return found


# --- objects of Kubernetes ------------------------------------------------------------------


def _object(api: str, kind: str, name: str, options: Options, **content: Any) -> dict[str, Any]:
    metadata = {"name": name, "labels": {"app.kubernetes.io/name": "cardinal"}}
    if options.namespace:
        metadata["namespace"] = options.namespace
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **content}


def _head(options: Options) -> dict[str, Any]:
    """The head: Ray's services and the run's driver, no work."""
    ports = {"gcs": GCS, "dashboard": DASHBOARD, "metrics": METRICS}
    head = Pods("head", 1, 2, 0, 8 * GIB, 1 * GIB)
    container = _container(head, options) | {
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        **_probes("/api/gcs_healthz", DASHBOARD),
    }
    start = {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"}
    return {
        "rayStartParams": start | _start(head),
        "template": {"spec": _pod(container, head, options)},
    }


def _group(pods: Pods, options: Options) -> dict[str, Any]:
    container = _container(pods, options) | _probes("/api/local_raylet_healthz", AGENT)
    spec = _pod(container, pods, options)
    if pods.gpus:
        spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
        spec["nodeSelector"] = dict(options.nodes)
    return {
        "groupName": pods.name,
        "replicas": pods.count,
        "minReplicas": pods.count,
        "maxReplicas": pods.count + (options.spare if pods.name == "rollout" else 0),
        "rayStartParams": _start(pods),
        "template": {"spec": spec},
    }


def _start(pods: Pods) -> dict[str, str]:
    """Of `ray start`; KubeRay itself tells Ray of CPUs, GPUs and memory."""
    return {"object-store-memory": str(pods.shm), "dashboard-agent-listen-port": str(AGENT)}


def _pod(container: dict[str, Any], pods: Pods, options: Options) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
        },
        "terminationGracePeriodSeconds": 60,
        "containers": [container],
    }
    shm = {"emptyDir": {"medium": "Memory", "sizeLimit": _mebi(pods.shm + GIB)}}  # NCCL's, too
    claim = {"persistentVolumeClaim": {"claimName": options.claim}}
    for volume, mount in (_volume("shm", shm, "/dev/shm"), _volume("storage", claim, STORAGE)):
        spec.setdefault("volumes", []).append(volume)
        container.setdefault("volumeMounts", []).append(mount)
    return spec


def _container(pods: Pods, options: Options) -> dict[str, Any]:
    amounts: dict[str, Any] = {"cpu": pods.cpus, "memory": _mebi(pods.memory + GIB)}
    if pods.gpus:
        amounts["nvidia.com/gpu"] = pods.gpus
    secrets = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
        for name, (secret, key) in options.secrets.items()
    ]
    return {
        "name": f"ray-{'head' if pods.name == 'head' else 'worker'}",
        "image": options.image or f"cardinal:{'gpu' if options.gpus else 'cpu'}",
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "HF_HOME", "value": f"{STORAGE}/huggingface"}, *secrets],
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _probes(path: str, port: int) -> dict[str, Any]:
    """Ray's own health pages, which need no token; five minutes to start, two to come back."""
    ask = {"httpGet": {"path": path, "port": port}, "timeoutSeconds": 5}
    return {
        "startupProbe": ask | {"periodSeconds": 5, "failureThreshold": 60},
        "readinessProbe": ask | {"periodSeconds": 10, "failureThreshold": 3},
        "livenessProbe": ask | {"periodSeconds": 10, "failureThreshold": 12},
    }


def _volume(name: str, source: dict[str, Any], path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"name": name, **source}, {"name": name, "mountPath": path}


def _add(group: dict[str, Any], volume: dict[str, Any], mount: dict[str, Any]) -> None:
    spec = group["template"]["spec"]
    spec["volumes"].append(volume)
    spec["containers"][0]["volumeMounts"].append(mount)


def _mebi(size: int) -> str:
    return f"{math.ceil(size / 2**20)}Mi"


class _Text(str):
    """A text of several lines, shown as such."""


class _Dumper(yaml.SafeDumper):
    """Texts as blocks, and no anchors, which people do not expect in a manifest."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    _Text, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
)
