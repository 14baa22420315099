"""`cardinal kuberay`: a configuration as a KubeRay manifest, in plain dicts and in YAML.

A RayJob with its own cluster, or a RayCluster to submit to: a head without work, pods of rollout
workers, pods of learner ranks, one storage claim. Nothing is started, no cluster is asked.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from cluster.launch.pod_templates import (
    STORAGE,
    Manifest,
    head_group,
    mount_volume,
    submitter,
    worker_group,
)
from cluster.launch.pods import ManifestOptions, worker_pods
from configs.load import ConfigError, dump
from configs.model_folder import on_hub
from configs.schema import RunConfig
from configs.text import one_line

CONFIG = "/etc/cardinal/config.yaml"
END_S = 30.0  # that a driver has to end its processes, after cluster.grace_s
RAY = "2.60.0"  # of the images in docker/
OF_A_JOB = "/spec/rayClusterSpec"  # where a RayJob has what a RayCluster has in its spec
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")  # that Kubernetes takes


def render(cfg: RunConfig, options: ManifestOptions) -> str:
    """The manifest as YAML, ready for `kubectl apply`.

    Raises:
        ConfigError: names that Kubernetes does not take, a worker that no pod holds, or a patch
            that does not fit.
    """
    *others, document = manifest(cfg, options)
    documents = [*others, patched(document, options.patches)]
    return yaml.dump_all(documents, Dumper=_ManifestDumper, sort_keys=False, width=100)


def manifest(cfg: RunConfig, options: ManifestOptions) -> list[Manifest]:
    """The manifest's objects: ConfigMap and RayJob, or one RayCluster."""
    name = object_name(cfg.name)
    spec = cluster_spec(cfg, options)
    if options.cluster:
        return [_object("ray.io/v1", "RayCluster", name, options, {"spec": spec})]
    config_map = {"configMap": {"name": f"{name}-config"}}
    head = spec["headGroupSpec"]["template"]["spec"]
    mount_volume(head, "config", config_map, str(Path(CONFIG).parent))
    job = {
        "entrypoint": f"python -m cluster.cli train {CONFIG} --resume",
        "runtimeEnvYAML": yaml.safe_dump(
            {
                "env_vars": {
                    "RAY_JOB_STOP_SIGNAL": "SIGINT",
                    "RAY_JOB_STOP_WAIT_TIME_S": f"{_end_s(cfg)}",
                }
            }
        ),
        "backoffLimit": 2,  # each try has a new cluster, on which the run continues
        "preRunningDeadlineSeconds": 1800,  # for pods that find no node; the job then fails
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "submitterPodTemplate": submitter(options),
        "rayClusterSpec": spec,
    }
    data = {"config.yaml": _BlockText(dump(on_storage(cfg)))}
    return [
        _object("v1", "ConfigMap", f"{name}-config", options, {"data": data}),
        _object("ray.io/v1", "RayJob", name, options, {"spec": job}),
    ]


def cluster_spec(cfg: RunConfig, options: ManifestOptions) -> Manifest:
    """RayClusterSpec: the head, and a group of pods for each of `worker_pods`."""
    head = head_group(options)
    workers = [worker_group(pods, options) for pods in worker_pods(cfg, options)]
    for group in (head, *workers):
        group["template"]["spec"]["terminationGracePeriodSeconds"] = _end_s(cfg)
    return {
        "rayVersion": RAY,
        "authOptions": {"mode": "token"},  # an open job server runs anyone's code
        "headGroupSpec": head,
        "workerGroupSpecs": workers,
    }


def patched(document: Manifest, files: Sequence[str]) -> Manifest:
    """The RayJob or RayCluster with the JSON patches (RFC 6902) of some files, in YAML or JSON.

    Their paths are those of a RayJob; a RayCluster is patched at the same place of its own.

    Raises:
        ConfigError: a file is no patch, or one of its operations does not fit.
    """
    for file in files:
        try:
            operations = yaml.safe_load(Path(file).read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"--patch {file}: cannot be read: {one_line(error)}") from error
        if not isinstance(operations, list):
            raise ConfigError(f"--patch {file}: must be a list of operations of a JSON patch")
        document = _patched(document, operations, file)
    return document


def _patched(document: Manifest, operations: list[object], file: str) -> Manifest:
    import jsonpatch
    import jsonpointer

    for number, operation in enumerate(operations, 1):
        if document["kind"] == "RayCluster" and isinstance(operation, dict):
            operation = {key: _of_a_cluster(key, value) for key, value in operation.items()}
        try:
            document = jsonpatch.apply_patch(document, [operation])
        except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as error:
            where = f"--patch {file}: operation {number}"
            raise ConfigError(f"{where} does not fit the manifest: {one_line(error)}") from error
    return document


def _of_a_cluster(key: object, value: object) -> object:
    if key in ("path", "from") and isinstance(value, str) and value.startswith(OF_A_JOB):
        return f"/spec{value.removeprefix(OF_A_JOB)}"
    return value


def _end_s(cfg: RunConfig) -> int:
    """Seconds between a signal and a kill."""
    return math.ceil(cfg.cluster.grace_s + END_S)


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


def _object(
    api: str, kind: str, name: str, options: ManifestOptions, content: Manifest
) -> Manifest:
    metadata: Manifest = {"name": name, "labels": {"app.kubernetes.io/name": "cardinal"}}
    if options.namespace:
        metadata["namespace"] = options.namespace
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **content}


class _BlockText(str):
    """A text of several lines, written as a block."""


class _ManifestDumper(yaml.SafeDumper):
    """Texts as blocks, and no anchors, which people do not expect in a manifest."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_ManifestDumper.add_representer(
    _BlockText,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"),
)
