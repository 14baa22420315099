"""Logs of a run's processes: Ray keeps them in each node's folder, and a failed run in RUN/logs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

FOLDER = "logs"
SYSTEM = ("raylet.err", "raylet.out", "gcs_server.err")
MARKS = (b":job_id:", b":actor_name:", b":task_name:")  # lines that Ray writes itself
TAIL = 2**20  # bytes of a log that are kept
AWAY_TAIL = 2**18  # of one of another node
FETCH_S = 20.0  # for other nodes to send theirs


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
    """Copy the logs that say something to RUN/logs.

    Args:
        folder: the run's.
        source: Ray's log folder.
        job: Ray's id of the run's job: others may share the Ray; None keeps all.
    """
    for name, text in telling_logs(source, job, TAIL).items():
        _keep(folder, name, text)


def keep_logs_of_other_nodes(folder: Path) -> None:
    """Fetch the ends of the logs that the run's processes have left on other nodes, to RUN/logs.

    All nodes are asked at once; one that does not answer within FETCH_S is named on stderr.
    """
    if not ray.is_initialized():
        return
    try:
        silent = [who for who, logs in _fetch() if not _keep_fetched(folder, who, logs)]
    except Exception as error:  # noqa: BLE001 - the run's own error is what the caller raises
        print(f"logs of other nodes are not kept: {error}", file=sys.stderr)
        return
    if silent:
        words = f"they did not answer within {FETCH_S:g} s"
        print(f"logs of nodes {', '.join(silent)} are not kept: {words}", file=sys.stderr)


def _fetch() -> Iterator[tuple[str, dict[str, bytes] | None]]:
    """Each other node's name and logs; None where it does not answer."""
    here = ray.get_runtime_context()
    own, job = here.get_node_id(), here.get_job_id()
    task = ray.remote(num_cpus=0, max_retries=0)(_logs_here)
    calls = {}
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] != own:
            affinity = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            call = task.options(scheduling_strategy=affinity).remote(job, AWAY_TAIL)
            calls[call] = f"{node['NodeManagerHostname']}-{node['NodeID'][:6]}"
    if not calls:
        return
    answered, late = ray.wait(list(calls), num_returns=len(calls), timeout=FETCH_S)
    for call in answered:
        try:
            yield calls[call], ray.get(call, timeout=FETCH_S)
        except RayError:  # the node died meanwhile
            yield calls[call], None
    for call in late:
        ray.cancel(call, force=True)
        yield calls[call], None


def _keep_fetched(folder: Path, node: str, logs: dict[str, bytes] | None) -> bool:
    for name, text in (logs or {}).items():
        # Of a worker process the name is its own; Ray's logs have the same on each node.
        _keep(folder, name if name.startswith("worker-") else f"{node}-{name}", text)
    return logs is not None


def telling_logs(source: Path, job: str | None, tail: int) -> dict[str, bytes]:
    """The ends of a folder's logs that say something, by name; `job` as for `keep_logs`."""
    telling = {}
    for log in sorted(source.glob("worker-*")) + [source / name for name in SYSTEM]:
        if not log.is_file():
            continue
        with log.open("rb") as stream:
            first = stream.readline()
            stream.seek(max(0, log.stat().st_size - tail))
            text = stream.read()
        if job is not None and first.startswith(b":job_id:") and job.encode() not in first:
            continue
        if not all(line.startswith(MARKS) for line in text.splitlines()):
            telling[log.name] = text
    return telling


def _logs_here(job: str, tail: int) -> dict[str, bytes]:
    source = session_logs()
    return telling_logs(source, job, tail) if source else {}


def _keep(folder: Path, name: str, text: bytes) -> None:
    target = folder / FOLDER
    target.mkdir(exist_ok=True)
    (target / name).write_bytes(text)


def pointed_out(sentence: str, folder: Path, source: Path) -> str:
    """A failure's sentence with the logs that it names, or those of its processes, in RUN/logs.

    Those of this machine are kept there once the run has ended, those of others are there already.
    """

    def is_kept(name: str) -> bool:
        return (source / name).is_file() or (folder / FOLDER / name).is_file()

    def kept(match: re.Match[str]) -> str:
        return str(folder / FOLDER / match[1]) if is_kept(match[1]) else match[0]

    named = re.sub(r"/[^\s()]*/logs/(worker-[\w.-]+)", kept, sentence)
    if named != sentence:
        return named
    for pid in re.findall(r"\bprocess (\d+)\b", sentence):
        for place in (source, folder / FOLDER):
            for log in sorted(place.glob(f"worker-*-{pid}.err")):
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
