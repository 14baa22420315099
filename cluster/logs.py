"""Logs of a run's processes: Ray keeps them in its own folder, and a failed run in RUN/logs.

Only those of this machine: another node's stay there.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import ray

FOLDER = "logs"
SYSTEM = ("raylet.err", "raylet.out", "gcs_server.err")
MARKS = (b":job_id:", b":actor_name:", b":task_name:")  # lines that Ray writes itself
TAIL = 2**20  # bytes of a log that are kept


def session_logs() -> Path | None:
    """Where the Ray of this process keeps its logs, also where it did not start; or None."""
    node = ray._private.worker._global_node
    if node is not None:
        return Path(node.get_logs_dir_path())
    from ray._common.utils import get_default_ray_temp_dir

    # The name of a session ends with the process that began it; another's may be newer.
    own = Path(get_default_ray_temp_dir()).glob(f"session_*_{os.getpid()}")
    newest = max(own, default=None)
    return newest / "logs" if newest else None


def keep_logs(folder: Path, source: Path, job: str | None = None) -> None:
    """Copy the logs that say something.

    Args:
        folder: the run's.
        source: Ray's log folder.
        job: Ray's id of the run's job: others may share the Ray; None keeps all.
    """
    target = folder / FOLDER
    for log in sorted(source.glob("worker-*")) + [source / name for name in SYSTEM]:
        if not log.is_file():
            continue
        with log.open("rb") as stream:
            first = stream.readline()
            stream.seek(max(0, log.stat().st_size - TAIL))
            text = stream.read()
        if job is not None and first.startswith(b":job_id:") and job.encode() not in first:
            continue
        if all(line.startswith(MARKS) for line in text.splitlines()):
            continue
        target.mkdir(exist_ok=True)
        (target / log.name).write_bytes(text)


def pointed_out(sentence: str, folder: Path, source: Path) -> str:
    """A failure's sentence with the logs that it names, or those of its processes, in RUN/logs."""

    def kept(match: re.Match[str]) -> str:
        return str(folder / FOLDER / match[1]) if (source / match[1]).is_file() else match[0]

    named = re.sub(rf"{re.escape(str(source))}/([\w.-]+)", kept, sentence)
    if named != sentence:
        return named
    for pid in re.findall(r"\bprocess (\d+)\b", sentence):
        for log in sorted(source.glob(f"worker-*-{pid}.err")):
            return f"{sentence} (log: {folder / FOLDER / log.name})"
    return sentence


def last_words(source: Path) -> str:
    """The first line of what a raylet wrote before it died; "" if it wrote nothing."""
    for name in SYSTEM:
        file = source / name
        if name.endswith(".err") and file.is_file():
            lines = [line.strip() for line in file.read_text(errors="replace").splitlines()]
            if words := next(filter(None, lines), ""):
                return words[:300]
    return ""


def killed_for_memory() -> int:
    """How many processes this machine's kernel has ended for lack of memory since it started."""
    try:
        counters = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", counters, re.MULTILINE)
    return int(found[1]) if found else 0
