"""Pods as KubeRay's head and worker groups: containers, volumes, probes and security contexts.

Input: `Pods` and the manifest's options. Output: plain dicts in KubeRay's own form.
"""

from __future__ import annotations

import math
from typing import Any

from cluster.deadlines import KILL
from cluster.launch.pods import ManifestOptions, Pods
from cluster.placement.memory import GIB
from cluster.placement.types import ROLE

STORAGE = "/mnt/cardinal"  # where every pod mounts the storage claim
USER = 1000  # of the images in docker/
# Where NVIDIA's runtime is the nodes' default, an image that asks for GPUs sees them unrequested.
NO_GPU = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}
DASHBOARD, AGENT, GCS, METRICS = 8265, 52365, 6379, 8080

Manifest = dict[str, Any]  # an object of Kubernetes, or a part of one


def head_group(options: ManifestOptions) -> Manifest:
    """The head: Ray's services and the run's driver, no work."""
    ports = {"gcs": GCS, "dashboard": DASHBOARD, "metrics": METRICS}
    head = Pods("head", count=1, cpus=2, gpus=0, memory=8 * GIB, object_store=1 * GIB)
    container = _container(head, options) | {
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        **_probes("/api/gcs_healthz", DASHBOARD),
    }
    start = {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"}
    return {
        "rayStartParams": start | _start_parameters(head),
        "template": {"spec": _pod_spec(container, head, options)},
    }


def worker_group(pods: Pods, options: ManifestOptions) -> Manifest:
    """Pods of one role, which Ray's nodes there have as a label."""
    container = _container(pods, options) | _probes("/api/local_raylet_healthz", AGENT)
    spec = _pod_spec(container, pods, options)
    if pods.gpus:
        spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
        spec["nodeSelector"] = dict(options.nodes)
    return {
        "groupName": pods.name,
        "replicas": pods.count,
        "minReplicas": pods.count,
        "maxReplicas": pods.count,
        "labels": {ROLE: pods.name},
        "rayStartParams": _start_parameters(pods) | {"num-cpus": str(pods.cpus)},
        "template": {"spec": spec},
    }


def submitter(options: ManifestOptions) -> Manifest:
    """The pod that submits a RayJob and follows its log.

    KubeRay's own has the head's image and pull secrets, and nothing else that a namespace may ask.
    """
    container = _restricted("ray-job-submitter", options) | {
        "env": [NO_GPU],
        "resources": {
            "requests": {"cpu": "500m", "memory": "200Mi"},  # KubeRay's own
            "limits": {"cpu": "1", "memory": "1Gi"},
        },
    }
    return {"spec": _pod(container, options) | {"restartPolicy": "Never"}}


def mount_volume(spec: Manifest, name: str, source: Manifest, path: str) -> None:
    """Add a volume to a pod's spec, mounted in its one container."""
    (container,) = spec["containers"]
    spec.setdefault("volumes", []).append({"name": name, **source})
    container.setdefault("volumeMounts", []).append({"name": name, "mountPath": path})


def _start_parameters(pods: Pods) -> dict[str, str]:
    """Of `ray start`; KubeRay itself tells Ray of GPUs and memory."""
    return {
        "object-store-memory": str(pods.object_store),
        "dashboard-agent-listen-port": str(AGENT),
    }


def _pod(container: Manifest, options: ManifestOptions) -> Manifest:
    """What all pods have, as the Pod Security Standard `restricted` wants it."""
    spec: Manifest = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        # Kubernetes' variables of services: VLLM_PORT, where one is called vllm, ends every engine.
        "enableServiceLinks": False,
    }
    if options.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in options.pull_secrets]
    if options.priority_class:
        spec["priorityClassName"] = options.priority_class
    return spec


def _pod_spec(container: Manifest, pods: Pods, options: ManifestOptions) -> Manifest:
    spec = _pod(container, options)
    limit = _mebibytes(pods.object_store + GIB)  # NCCL's shared memory, too
    mount_volume(spec, "shm", {"emptyDir": {"medium": "Memory", "sizeLimit": limit}}, "/dev/shm")
    claim = {"persistentVolumeClaim": {"claimName": options.claim}}
    mount_volume(spec, "storage", claim, STORAGE)
    return spec


def _container(pods: Pods, options: ManifestOptions) -> Manifest:
    requests: Manifest = {"cpu": pods.cpus, "memory": _mebibytes(pods.memory + GIB)}
    limits = dict(requests)
    if pods.gpus:
        requests["nvidia.com/gpu"] = limits["nvidia.com/gpu"] = pods.gpus
        del limits["cpu"]  # a process that is held back at it leaves its GPU waiting
    secrets = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
        for name, (secret, key) in options.secrets.items()
    ]
    home: Manifest = {"name": "HF_HOME", "value": f"{STORAGE}/huggingface"}
    return _restricted(f"ray-{'head' if pods.name == 'head' else 'worker'}", options) | {
        "env": [home, *_settings_of_ray(), *([] if pods.gpus else [NO_GPU]), *secrets],
        "resources": {"requests": requests, "limits": limits},
    }


def _settings_of_ray() -> list[Manifest]:
    return [{"name": f"RAY_{name}", "value": str(value)} for name, value in KILL.items()]


def _restricted(name: str, options: ManifestOptions) -> Manifest:
    return {
        "name": name,
        "image": options.image or f"cardinal:{'gpu' if options.gpus else 'cpu'}",
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _probes(path: str, port: int) -> Manifest:
    """Ray's own health pages, which need no token; five minutes to start, two to come back."""
    request = {"httpGet": {"path": path, "port": port}, "timeoutSeconds": 5}
    return {
        "startupProbe": request | {"periodSeconds": 5, "failureThreshold": 60},
        "readinessProbe": request | {"periodSeconds": 10, "failureThreshold": 3},
        "livenessProbe": request | {"periodSeconds": 10, "failureThreshold": 12},
    }


def _mebibytes(size: int) -> str:
    return f"{math.ceil(size / 2**20)}Mi"
