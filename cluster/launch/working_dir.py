"""The working directory of a submitted job: the files of this checkout that Ray packs and ships.

Input: the checkout. Output: its shipped files, or one sentence that says why they cannot be sent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from configs.load import ConfigError
from configs.paths import ROOT

LIMIT_MIB = 64  # of the shipped checkout, which has 2: Ray keeps it in the head's memory


def shipped_path(config: Path, root: Path = ROOT) -> str:
    """The configuration's path in the shipped checkout.

    Raises:
        ConfigError: it is not shipped, or the checkout is too large.
    """
    files = shipped_files(root)
    total = sum(files.values())
    if total > LIMIT_MIB * 2**20:
        raise ConfigError(
            f"the working directory {root} has {total / 2**20:,.0f} MiB to ship, over {LIMIT_MIB}: "
            f"{_largest(files)}; name what the job does not need in .rayignore, or put it on "
            "storage that every node sees"
        )
    try:
        name = config.resolve().relative_to(root.resolve())
    except ValueError:
        name = None
    if name not in files:
        raise ConfigError(f"{config}: is not shipped; it must lie in {root} and not be ignored")
    return str(name)


def shipped_files(root: Path) -> dict[Path, int]:
    """Bytes by path of what Ray would ship: not what .gitignore or .rayignore name, nor .git."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    sizes: dict[Path, int] = {}

    def add(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(root)] = path.stat().st_size

    excludes = [_get_excludes(root, get_runtime_env_default_excludes())]
    _dir_travel(root, excludes, add, include_gitignore=True, logger=logging.getLogger("silent"))
    return sizes


def _largest(files: Mapping[Path, int], count: int = 3) -> str:
    """The largest entries of the top folder, by name and size."""
    entries: dict[str, int] = {}
    for path, size in files.items():
        name = path.parts[0] + ("/" if len(path.parts) > 1 else "")
        entries[name] = entries.get(name, 0) + size
    first = sorted(entries.items(), key=lambda entry: -entry[1])[:count]
    return ", ".join(f"{name} {size / 2**20:,.1f} MiB" for name, size in first)
