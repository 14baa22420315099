"""Commands that run on another machine: submit, job, kuberay."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

from cluster.commands.command import Commands, argument
from cluster.commands.shared import CONFIG, configuration, require_at_least
from configs.load import ConfigError

COMMANDS = Commands()
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@COMMANDS.add(
    "submit",
    *CONFIG,
    argument(
        "--address",
        help="of the job server, http://HEAD:8265; Ray's variables or this machine otherwise",
    ),
    argument("--python", default="python", help="interpreter on the cluster"),
    argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="for the job; whoever sees the job sees it",
    ),
    argument("--no-follow", action="store_true", help="return once it is submitted"),
)
def submit_command(options: argparse.Namespace) -> int:
    """Run one job on a Ray cluster that is running; submitted again, it continues."""
    from cluster.launch.submit import submit

    return submit(
        options.config,
        options.overrides,
        options.address,
        options.python,
        dict(_variable(text) for text in options.env),
        not options.no_follow,
    )


def _variable(text: str) -> tuple[str, str]:
    """NAME=VALUE, or NAME with the value that it has here."""
    name, equals, value = text.partition("=")
    if not equals and name not in os.environ:
        raise ConfigError(f"--env {name}: is not set here; give --env {name}=VALUE")
    return name, value if equals else os.environ[name]


@COMMANDS.add(
    "job",
    argument("action", choices=("status", "logs", "stop")),
    argument("id", help="as submit printed it"),
    argument("--address", help="as of submit"),
)
def job_command(options: argparse.Namespace) -> int:
    """Show the state of a submitted job, follow its log, or stop it."""
    from cluster.launch.jobs import job

    return job(options.action, options.id, options.address)


@COMMANDS.add(
    "kuberay",
    *CONFIG,
    argument("--image", help="with this checkout; cardinal:gpu or cardinal:cpu"),
    argument("--claim", default="cardinal", help="PersistentVolumeClaim of all pods"),
    argument("--namespace", help="of all objects"),
    argument("--cpu", action="store_true", help="pods without GPUs"),
    argument("--pod-size", type=int, default=8, help="GPUs of a pod, at most"),
    argument(
        "--nodes",
        action="append",
        default=[],
        metavar="LABEL=VALUE",
        help="of the Kubernetes nodes with the GPUs",
    ),
    argument(
        "--secret",
        action="append",
        default=[],
        metavar="NAME=SECRET/KEY",
        help="an environment variable out of a Secret",
    ),
    argument("--memory", type=int, metavar="GIB", help="of a worker pod"),
    argument("--spare", type=int, default=0, help="rollout pods beyond those that are needed"),
    argument("--cluster", action="store_true", help="a RayCluster to submit to"),
    argument(
        "--pull-secret", action="append", default=[], metavar="SECRET", help="to fetch the image"
    ),
    argument("--priority-class", help="of all pods"),
    argument(
        "--patch",
        action="append",
        default=[],
        metavar="FILE",
        help="JSON patch (RFC 6902) of the RayJob or RayCluster; may be given again",
    ),
)
def kuberay_command(options: argparse.Namespace) -> int:
    """Print the KubeRay manifest of a run, for `kubectl apply -f -`."""
    from cluster.launch.kuberay import render
    from cluster.launch.pods import UNKNOWN_MODEL, ManifestOptions, known_model

    require_at_least(1, "--pod-size", options.pod_size)
    require_at_least(0, "--spare", options.spare)
    require_at_least(1, "--memory", options.memory)
    manifest_options = ManifestOptions(
        image=options.image,
        claim=options.claim,
        namespace=options.namespace,
        gpus=not options.cpu,
        pod_size=options.pod_size,
        nodes=_pairs("--nodes", options.nodes),
        secrets=_secrets(options.secret),
        memory=options.memory and options.memory * 2**30,
        spare=options.spare,
        cluster=options.cluster,
        pull_secrets=_names("--pull-secret", options.pull_secret),
        priority_class=options.priority_class,
        patches=options.patch,
    )
    cfg = configuration(options)
    _check_image(options.image)
    print(render(cfg, manifest_options), end="")
    if not known_model(cfg) and not options.memory:
        guess = f"{UNKNOWN_MODEL / 2**30:g} GiB a process were assumed; --memory says otherwise"
        note = f"cardinal: model.path={cfg.model.path}: is not on this machine, so {guess}"
        print(note, file=sys.stderr)
    return 0


def _names(option: str, names: Sequence[str]) -> Sequence[str]:
    """Names that Kubernetes takes."""
    from cluster.launch.kuberay import NAME

    for name in names:
        if not NAME.fullmatch(name):
            raise ConfigError(f"{option} {name}: must be a name of Kubernetes: a-z, 0-9 and -")
    return names


def _check_image(image: str | None) -> None:
    """Refuse a digest that is none; say of a tag that it may move."""
    if image is None:
        return
    _, at, digest = image.partition("@")
    if at and not DIGEST.fullmatch(digest):
        raise ConfigError(f"--image {image}: its digest must be sha256: and 64 hexadecimal digits")
    if not at:
        note = "is a tag: pods that start later may get another image; NAME@sha256:… pins one"
        print(f"cardinal: --image {image}: {note}", file=sys.stderr)


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE each."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"{option} {text}: must have the form NAME=VALUE")
        pairs[name] = value
    return pairs


def _secrets(texts: Sequence[str]) -> dict[str, tuple[str, str]]:
    """NAME=SECRET/KEY each: the manifest names a Secret, and never holds its value."""
    from cluster.launch.kuberay import NAME

    secrets = {}
    for name, place in _pairs("--secret", texts).items():
        secret, slash, key = place.partition("/")
        if not (NAME.fullmatch(secret) and slash and key):
            raise ConfigError(f"--secret {name}={place}: must have the form NAME=SECRET/KEY")
        secrets[name] = secret, key
    return secrets
