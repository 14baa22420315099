"""This machine: a run may write where it does, and has the files, GPUs, memory and disk it needs.

Input: a configuration and the sizes of its model. Output: one sentence that names the key or
variable, the place and the rule, or nothing. Nothing is left behind.
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from pathlib import Path

from cluster.failures import InUseError
from cluster.placement.layout import weight_channel
from cluster.placement.memory import (
    ENVIRONMENT_BYTES,
    GIB,
    disk_bytes,
    machine_bytes,
    process_needs,
    shared_memory,
    total_bytes,
)
from cluster.placement.nodes import local_node, visible_gpus
from cluster.placement.plan import cpus, plan
from cluster.placement.types import Plan
from configs.load import ConfigError
from configs.model_folder import ModelSize
from configs.schema import RunConfig

RULE = "it must be a folder that this user may write to"
SHARED_MEMORY = Path("/dev/shm")
SLOW_STORE = "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE"  # Ray's own: its objects may lie on a disk
# Where a run's libraries write, where these are set.
CACHES = ("XDG_CACHE_HOME", "VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
SOCKET_BYTES = 107  # of a socket's path, in Linux
# The longest that Ray makes below its temporary folder, with a process id of seven digits.
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1"

# Open files of a local Ray's raylet and of a run's processes, of which each adds to the raylet's.
FILES, FILES_EACH = 256, 16


def check_places(cfg: RunConfig) -> None:
    """Refuse places that this process cannot write to.

    Raises:
        ConfigError: names the key or variable, the place and the system's reason.
    """
    check_writable(f"cluster.root={cfg.cluster.root}", Path(cfg.cluster.root))
    _check_home()
    _check_temporary()
    for name in CACHES:
        if place := os.environ.get(name):
            _check_absolute(name, place)
            check_writable(f"{name}={place}", Path(place))


def check_open_files(cfg: RunConfig) -> None:
    """Refuse a limit on open files under which a local Ray's own processes would die.

    Raises:
        ConfigError: the limit and what is needed.
    """
    # Ray raises its own limit to the hard one.
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = FILES + FILES_EACH * (cfg.rollout.workers + cfg.learner.ranks)
    if limit != resource.RLIM_INFINITY and limit < need:
        raise ConfigError(
            f"ulimit -Hn is {limit}: a process may open no more files, and a run of "
            f"rollout.workers={cfg.rollout.workers} and learner.ranks={cfg.learner.ranks} needs "
            f"{need}; raise it (nofile in /etc/security/limits.conf, --ulimit of Docker)"
        )


def check_gpus(cfg: RunConfig) -> None:
    """Refuse what needs GPUs where this machine shows none.

    Raises:
        ConfigError: names the key or CUDA_VISIBLE_DEVICES.
    """
    weight_channel(cfg, gpu=visible_gpus() > 0)


def plan_here(
    cfg: RunConfig,
    model: ModelSize,
    available: int,
    learn: bool = True,
    environment: int = ENVIRONMENT_BYTES,
) -> Plan:
    """The plan for a local Ray on this machine.

    Args:
        cfg: the run.
        model: sizes of its policy.
        available: bytes of memory that are free.
        learn: False places rollout workers only.
        environment: bytes of a process of environments.

    Raises:
        ConfigError: too little memory; InUseError where others hold what is missing.
        PlacementError: too few GPUs, or too little memory for a process.
    """
    node = local_node(cpus(cfg), available)
    if learn:
        _check_memory(cfg, machine_bytes(cfg, model, node.total["GPU"] > 0, environment), available)
    return plan(cfg, [node], process_needs(cfg, model, [node], environment), learn)


def _check_memory(cfg: RunConfig, memory: dict[str, int], available: int) -> None:
    need = sum(memory.values())
    if need > available:
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in memory.items() if size)
        keys = ["rollout.env_processes", "cluster.object_store_gib"]
        if "engine KV cache" in memory:  # all is in this memory
            keys += ["rollout.kv_cache_gib", "learner.microbatch_tokens"]
        elif cfg.learner.offload:
            keys += ["learner.offload"]
        total = total_bytes()
        others = f", others hold the rest of its {total / GIB:.1f}" if need <= total else ""
        raise (InUseError if others else ConfigError)(
            f"too little memory: the run needs {need / GIB:.1f} GiB ({parts}), this machine "
            f"has {available / GIB:.1f} GiB free{others}; lower {', '.join(keys)} or the model"
        )


def check_room(cfg: RunConfig, model: ModelSize, local: bool) -> None:
    """Refuse a run that this machine has no room for, on disk or in shared memory.

    Args:
        cfg: the run.
        model: sizes of its policy.
        local: whether its Ray is started here, with its object store.

    Raises:
        ConfigError: the sizes, and what to do.
    """
    parts = disk_bytes(cfg, model)
    root = _existing(Path(cfg.cluster.root))
    need, free = sum(parts.values()), shutil.disk_usage(root).free
    if need > free:
        raise ConfigError(
            f"cluster.root={cfg.cluster.root}: the run writes {_sizes(need, parts)}, and there "
            f"are {free / GIB:.1f} GiB free; lower learner.keep_checkpoints or sft.keep, or "
            "choose another folder"
        )
    if local and SHARED_MEMORY.is_dir():
        check_shared_memory(cfg, model, store=True)


def check_shared_memory(cfg: RunConfig, model: ModelSize, store: bool) -> None:
    """Refuse weights, and a local Ray's object store, that /dev/shm has no room for.

    Args:
        cfg: the run.
        model: sizes of its policy.
        store: whether the object store is still to be made.

    Raises:
        ConfigError: the sizes, and what to do; InUseError where others hold what is missing.
    """
    parts = shared_memory(cfg, model, store and not os.environ.get(SLOW_STORE))
    need, usage = sum(parts.values()), shutil.disk_usage(SHARED_MEMORY)
    free = usage.free
    if need > free:
        raise (InUseError if need <= usage.total else ConfigError)(
            f"{SHARED_MEMORY} has {free / GIB:.2f} GiB free, and the run needs "
            f"{_sizes(need, parts)}; in Docker give `--shm-size={need / GIB + 1:.0f}g`, lower "
            f"cluster.object_store_gib, or set {SLOW_STORE}=1, which puts the store on a disk"
        )


def _sizes(need: int, parts: dict[str, int]) -> str:
    each = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size)
    return f"{need / GIB:.2f} GiB ({each})"


def _check_home() -> None:
    """Ray keeps its token in the home folder, vLLM and others their caches."""
    home = os.environ.get("HOME")
    try:
        folder = Path(home) if home else Path.home()
    except RuntimeError:  # a user without an entry in the system's list
        raise ConfigError(f"HOME is not set, and this user has no home folder; {RULE}") from None
    key = f"HOME={home}" if home else f"HOME is not set, and the user's is {folder}"
    if home:
        _check_absolute("HOME", home)
    try:
        there = folder.is_dir()
    except OSError as error:  # below a folder that this user may not enter
        raise _not_writable(key, error) from error
    if not there:
        raise ConfigError(f"{key}: there is no such folder; {RULE}")
    check_writable(key, folder)


def _check_temporary() -> None:
    """Ray's sockets and logs, and everybody's temporary files."""
    for variable in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR"):
        compiled = os.environ.get(variable, "")
        if compiled.split() not in ([], [compiled]):
            raise ConfigError(
                f"{variable}={compiled}: holds a blank, and the compiler of vLLM's kernels, which "
                "works there, splits its arguments at blanks; choose another folder"
            )
    name = next((n for n in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(n)), None)
    folder = os.environ[name] if name else "/tmp"
    key = f"{name}={folder}" if name else folder
    if not folder.isascii() or len(folder) + len(SOCKET) > SOCKET_BYTES:
        raise ConfigError(
            f"{key}: Ray puts sockets there and needs a path of ASCII letters, at most "
            f"{SOCKET_BYTES - len(SOCKET)}; set RAY_TMPDIR to another folder, such as /tmp"
        )
    for variable in ("RAY_TMPDIR", "TMPDIR"):
        if place := os.environ.get(variable):
            _check_absolute(variable, place)
            check_writable(f"{variable}={place}", Path(place))
    if not name:
        check_writable(folder, Path(folder))


def _check_absolute(variable: str, place: str) -> None:
    """A run's processes start in folders of their own, from which a relative path is another."""
    if not Path(place).is_absolute():
        raise ConfigError(f"{variable}={place}: is a relative path; it must begin with /")


def check_writable(key: str, place: Path) -> None:
    """Make a folder there, or at the nearest place above it that exists, and remove it.

    Raises:
        ConfigError: `key`, and the system's reason.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".cardinal-", dir=_existing(place)):
            pass
    except OSError as error:
        raise _not_writable(key, error) from error


def _not_writable(key: str, error: OSError) -> ConfigError:
    return ConfigError(f"{key}: cannot be written to: {error.strerror or error}; {RULE}")


def _existing(place: Path) -> Path:
    """The place itself, or the nearest folder above it that exists."""
    place = place.absolute()
    return next(p for p in (place, *place.parents) if p.exists())
