"""`cardinal train --resume`: whether a run folder holds this very run, which then continues."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from configs.load import ConfigError, load
from configs.schema import RunConfig

MAY_DIFFER = (  # where a run is, on how many machines and how patient it is, not what it is
    *(f"cluster.{key}" for key in ("address", "root", "object_store_gib", "grace_s")),
    *(f"cluster.{key}" for key in ("accelerator", "layout", "channel", "heartbeat_s")),
    *(f"cluster.{part}_deadline_s" for part in ("start", "episode", "env", "block", "sync")),
    *(f"cluster.{key}" for key in ("checkpoint_deadline_s", "max_failure_rate")),
    *(f"rollout.{key}" for key in ("workers", "in_flight", "env_processes", "cpus", "threads")),
    *(f"rollout.{key}" for key in ("kv_cache_gib", "gpu_memory", "tensor_parallel")),
    *("rollout.max_restarts", "rollout.read_weights", "env.memory_gib", "tracker"),
    *(f"learner.{key}" for key in ("ranks", "cpus", "threads", "max_restarts")),
    *(f"learner.{key}" for key in ("microbatch_tokens", "microbatch_images", "sequence_parallel")),
    *(f"learner.checkpoint_{key}" for key in ("minutes", "every")),
    "learner.keep_checkpoints",
)


def was_begun(cfg: RunConfig) -> bool:
    """Whether the run folder holds this run, begun before.

    Raises:
        ConfigError: it holds a run of another configuration.
    """
    file = Path(cfg.cluster.root) / cfg.name / "config.yaml"
    try:
        if not file.is_file():
            return False
    except OSError:  # below a folder that this user may not enter: `run_folder` refuses it
        return False
    there, here = _by_key(load(file)), _by_key(cfg)
    for key in sorted(there.keys() | here.keys()):
        if there.get(key) != here.get(key):
            raise ConfigError(
                f"name={cfg.name}: the run folder {file.parent} was begun with "
                f"{key}={there.get(key)}, and this is {here.get(key)}; choose another name"
            )
    return True


def _by_key(section: object, key: str = "") -> dict[str, object]:
    """Values of a configuration by dotted key, without those that may differ."""
    if not dataclasses.is_dataclass(section):
        return {} if key in MAY_DIFFER else {key: section}
    values: dict[str, object] = {}
    for field in dataclasses.fields(section):
        name = f"{key}.{field.name}" if key else field.name
        values |= _by_key(getattr(section, field.name), name)
    return values
