"""`cardinal submit`: a run on a cluster that is already running, as a Ray job.

Input: a configuration and its overrides. Output: a submission id, then the job's log and exit
code. The cluster gets the checkout as Ray packs it, and runs `cardinal train` in it.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.deadlines import STOP_WAIT, stop_wait_s
from cluster.environments import load_run
from cluster.failures import RunFailure, first_line
from cluster.launch.job_server import connect, use_token
from cluster.launch.jobs import follow_log
from cluster.launch.working_dir import shipped_path
from cluster.placement.nodes import plan_live
from cluster.placement.types import Needs
from cluster.preflight.resume import was_begun
from configs.load import ConfigError, find
from configs.model_folder import on_hub
from configs.paths import ROOT
from configs.schema import RunConfig

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

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

    Submitted again, a run whose folder is there continues from its last checkpoint.

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
    use_token()
    cfg = validate(config, overrides)
    client = connect(address)
    file = shipped_path(find(config), root)
    folder = str(Path(cfg.cluster.root) / cfg.name)
    _refuse_a_running_twin(client, folder)
    plan_live(cfg, client.get_address(), lambda nodes: Needs())  # the job itself counts bytes, too
    command = [python, "-m", "cluster.cli", "train", file, "--resume", *overrides]
    try:
        name = client.submit_job(
            entrypoint=shlex.join(command),
            submission_id=f"{cfg.name}-{time.strftime('%m%d-%H%M%S')}",
            runtime_env={"working_dir": str(root), "env_vars": _variables(cfg, variables or {})},
            metadata={RUN: folder},
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise RunFailure(f"{client.get_address()} refused the job: {first_line(error)}") from error
    at = "" if address is None else f" --address {address}"
    print(f"job {name} on {client.get_address()}, run folder {folder}")
    print(f"  cardinal job status|logs|stop {name}{at}", flush=True)
    return follow_log(client, name) if follow else 0


def validate(config: str, overrides: Sequence[str]) -> RunConfig:
    """What can be known here of a run that will start elsewhere.

    Raises:
        ConfigError: as `load_run`; a path that the cluster would look for in the shipped copy of
            the checkout; or a run folder, where this side
            sees it, that was begun with other keys.
    """
    cfg = load_run(config, overrides)
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
    was_begun(cfg)  # the job's own `--resume` would refuse it long after --no-follow returned
    return cfg


def _variables(cfg: RunConfig, given: Mapping[str, str]) -> dict[str, str]:
    """The job's environment: the user's, and what makes a stopped job end as by Ctrl-C."""
    return {
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        STOP_WAIT: str(stop_wait_s(cfg.cluster)),
        **given,
    }


def _refuse_a_running_twin(client: JobSubmissionClient, folder: str) -> None:
    for job in client.list_jobs():
        if (job.metadata or {}).get(RUN) == folder and not job.status.is_terminal():
            raise ConfigError(
                f"name: the run folder {folder} is that of job {job.submission_id}, which is "
                f"{job.status.value.lower()}; stop it first, or choose another name"
            )
