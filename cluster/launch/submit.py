"""`cardinal submit` and `cardinal job`: a run on a cluster that is already running, as a Ray job.

Comes in: a configuration and its overrides; goes out: a submission id, its log, its exit code.
The cluster gets the checkout as Ray packs it. Knows nothing of what the job then starts.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import shlex
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.failures import RunFailure, first_line
from cluster.placement.nodes import plan_live, same_versions
from cluster.placement.plan import Needs
from configs.load import ConfigError, find, load
from configs.model_folder import on_hub
from configs.paths import ROOT
from configs.schema import RunConfig
from envs.registry import check_settings

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ADDRESS = "http://127.0.0.1:8265"  # where `ray start --head` puts its job server
LIMIT_MIB = 64  # of the shipped checkout, which has 2: Ray keeps it in the head's memory
CONNECT_S, ANSWER_S, UPLOAD_S, SILENCE_S, LOST_S, STOP_S = 4.0, 8.0, 120.0, 30.0, 60.0, 60.0
ACTIONS = ("status", "logs", "stop")
RUN = "cardinal_run"  # the job's metadata: its run folder


def submit(
    config: str,
    overrides: Sequence[str],
    address: str | None = None,
    python: str = "python",
    variables: Mapping[str, str] | None = None,
    follow: bool = True,
    root: Path = ROOT,
) -> int:
    """Submit one run; the exit code of the job, or 0 at once without `follow`.

    Submitted again, a run whose folder is there goes on from its last checkpoint.

    Args:
        config: as `cardinal train` takes it; the file must lie in the checkout.
        overrides: as `cardinal train` takes them.
        address: `http://…` of the job server; None takes Ray's environment variables.
        python: the interpreter on the cluster that has the packages.
        variables: environment of the job; whoever sees the job sees them.
        follow: print the job's log and wait for its end.
        root: the checkout.

    Raises:
        ConfigError: the run cannot be, cannot be shipped, or runs already; as `connect`.
        PlacementError: the cluster has not the CPUs or GPUs free.
        RunFailure: the job server does not take it, or is lost for a minute.
    """
    _use_token()
    cfg = validate(config, overrides)
    file = ship(find(config), root)
    client = connect(address)
    folder = str(Path(cfg.cluster.root) / cfg.name)
    _refuse_a_running_twin(client, folder)
    plan_live(cfg, client.get_address(), lambda nodes: Needs())  # the job itself counts bytes, too
    command = [python, "-m", "cluster.cli", "train", file, "--resume", *overrides]
    try:
        name = client.submit_job(
            entrypoint=shlex.join(command),
            submission_id=f"{cfg.name}-{time.strftime('%m%d-%H%M%S')}",
            runtime_env={"working_dir": str(root), "env_vars": _variables(variables or {})},
            metadata={RUN: folder},
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise RunFailure(f"{client.get_address()} refused the job: {first_line(error)}") from error
    at = "" if address is None else f" --address {address}"
    print(f"job {name} on {client.get_address()}, run folder {folder}")
    print(f"  cardinal job status|logs|stop {name}{at}", flush=True)
    return tail(client, name) if follow else 0


def validate(config: str, overrides: Sequence[str]) -> RunConfig:
    """What can be known here of a run that will start elsewhere.

    Raises:
        ConfigError: as `load`; environment settings that are refused; or a path that the
            cluster would look for in the shipped copy of the checkout.
    """
    from cluster.preflight.check import environments

    cfg = load(config, overrides)
    try:
        for name, env in environments(cfg).items():
            check_settings(*env, where=name)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for key, value in (
        ("cluster.root", cfg.cluster.root),
        ("model.path", None if on_hub(cfg.model.path or "") else cfg.model.path),
        ("sft.data", cfg.sft.data),
    ):
        if value is not None and not Path(value).is_absolute():
            raise ConfigError(
                f"{key}={value}: must be absolute, on storage that every node sees: the job runs "
                "in a copy of the checkout without runs/ and models/"
            )
    return cfg


def ship(config: Path, root: Path = ROOT) -> str:
    """The configuration's path in the shipped checkout.

    Raises:
        ConfigError: it is not shipped, or the checkout is too large.
    """
    files = shipped(root)
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


def shipped(root: Path) -> dict[Path, int]:
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


def connect(address: str | None) -> JobSubmissionClient:
    """A client of the job server, once it has answered and is known to run the same versions.

    Raises:
        ConfigError: what was given is no address of a job server, nobody answers there in time,
            it wants another token, or the cluster runs another Ray or Python.
    """
    variables = (os.environ.get(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"))
    url = address or next((v for v in variables if v), ADDRESS)
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url}: must be the job server's address, such as http://HEAD:8265")
    os.environ["RAY_API_SERVER_ADDRESS"] = url  # Ray lets its variables win over the argument
    import requests
    from ray.exceptions import AuthenticationError

    client_class = _client()
    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk",
                 "_private.runtime_env"):  # fmt: skip
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
    try:
        client = client_class(url)
        there = client._do_request("GET", "/api/v0/cluster_metadata").json()["data"]
        same_versions(url, there["rayVersion"], there["pythonVersion"])
    except AuthenticationError as error:
        raise ConfigError(
            f"{url} wants a token that this user does not have ({first_line(error)}): put what "
            "`ray get-auth-token` says on the head into RAY_AUTH_TOKEN"
        ) from error
    except ConfigError:
        raise
    except (requests.RequestException, RuntimeError, OSError, ValueError, KeyError) as error:
        raise ConfigError(f"no Ray job server answers at {url}: {first_line(error)}") from error
    return client


def _client() -> type[JobSubmissionClient]:
    """Ray's client, with a deadline on every request."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            limit = ANSWER_S if method == "GET" else UPLOAD_S
            return super()._do_request(method, endpoint, timeout=(CONNECT_S, limit), **options)

    return Client


def _use_token() -> None:
    """Ray sends this user's token only where the mode says so, and reads that at its import."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if "RAY_AUTH_TOKEN" in os.environ or file.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _variables(given: Mapping[str, str]) -> dict[str, str]:
    """The job's environment: the user's, and what makes a stopped job end as by Ctrl-C."""
    return {
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": f"{STOP_S:g}",
        **given,
    }


def begun(cfg: RunConfig) -> bool:
    """Whether the run folder holds this very run, begun before and to be gone on with.

    Raises:
        ConfigError: it holds a run of another configuration.
    """
    file = Path(cfg.cluster.root) / cfg.name / "config.yaml"
    if not file.is_file():
        return False
    there, here = _flat(load(file)), _flat(cfg)
    for key in sorted(there.keys() | here.keys()):
        if there.get(key) != here.get(key):
            raise ConfigError(
                f"name={cfg.name}: the run folder {file.parent} was begun with "
                f"{key}={there.get(key)}, and this is {here.get(key)}; choose another name"
            )
    return True


def _flat(section: Any, key: str = "") -> dict[str, Any]:
    """Values by dotted key; not those that say where a run is, which may change."""
    if not dataclasses.is_dataclass(section):
        return {} if key in ("cluster.address", "cluster.root") else {key: section}
    found: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        name = f"{key}.{field.name}" if key else field.name
        found |= _flat(getattr(section, field.name), name)
    return found


def _refuse_a_running_twin(client: JobSubmissionClient, folder: str) -> None:
    for job in client.list_jobs():
        if (job.metadata or {}).get(RUN) == folder and not job.status.is_terminal():
            raise ConfigError(
                f"name: the run folder {folder} is that of job {job.submission_id}, which is "
                f"{job.status.value.lower()}; stop it first, or choose another name"
            )


def job(action: str, name: str, address: str | None = None) -> int:
    """One of ACTIONS on a submitted job; `logs` follows, and returns the job's exit code.

    Raises:
        ConfigError: there is no such job; as `connect`.
        RunFailure: as `tail`.
    """
    _use_token()
    client = connect(address)
    try:
        if action == "stop":
            client.stop_job(name)
            deadline = time.monotonic() + STOP_S + 10  # Ray kills it before
            while not client.get_job_status(name).is_terminal() and time.monotonic() < deadline:
                time.sleep(1)
        print(_state(client, name), flush=True)
    except RuntimeError as error:
        raise ConfigError(f"job {name}: {first_line(error)}") from error
    return tail(client, name) if action == "logs" else 0


def _state(client: JobSubmissionClient, name: str) -> str:
    info = client.get_job_info(name)
    why = (info.message or "").split(", last available logs")[0].replace("\n", " ")
    return f"job {name}: {info.status.value.lower()}" + (f", {why}" if why else "")


def tail(client: JobSubmissionClient, name: str) -> int:
    """Print a job's log until it ends; its exit code.

    Ctrl-C leaves the job alone.

    Raises:
        RunFailure: the job server has not answered for a minute.
    """
    try:
        return asyncio.run(_tail(client, name))
    except KeyboardInterrupt:
        print(f"\njob {name} goes on; `cardinal job stop {name}` ends it", file=sys.stderr)
        return 130


async def _lines(client: JobSubmissionClient, name: str) -> AsyncIterator[str]:
    """The log as it comes; in silence, a question now and then whether the server is there."""
    stream = client.tail_job_logs(name).__aiter__()
    while True:
        line = asyncio.ensure_future(anext(stream))
        try:
            while not (await asyncio.wait({line}, timeout=SILENCE_S))[0]:
                client.get_job_info(name)
            yield line.result()
        except StopAsyncIteration:
            return
        finally:
            line.cancel()


async def _tail(client: JobSubmissionClient, name: str) -> int:
    """The log from its begin; after a lost connection, from where it was lost."""
    import aiohttp

    shown, heard = 0, time.monotonic()
    while True:
        passed = 0
        try:
            async for text in _lines(client, name):
                passed, before = passed + len(text), passed
                print(text[max(0, shown - before) :], end="", flush=True)
                shown, heard = max(shown, passed), time.monotonic()
            info = client.get_job_info(name)
            if info.status.is_terminal():
                break
        except (aiohttp.ClientError, RuntimeError, OSError) as error:
            if time.monotonic() - heard > LOST_S:
                raise RunFailure(
                    f"lost {client.get_address()} for {LOST_S:g} s ({first_line(error)}); the job "
                    f"may go on: `cardinal job logs {name}`"
                ) from error
        await asyncio.sleep(2)
    print(_state(client, name))
    return 0 if info.status.value == "SUCCEEDED" else _code(info.driver_exit_code)


def _code(code: int | None) -> int:
    """An exit code from a driver's: one that was killed, or never started, failed."""
    return code if code is not None and 0 < code < 256 else 1
