"""The Ray session of a run: join the cluster that was named, or start a local one.

Input: the configuration's cluster section. Output: a connected Ray, which ends with the context.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import ray

from cluster.failures import RunFailure, first_line
from cluster.placement.nodes import address_of, live_nodes, local_cpus, reachable
from configs.load import ConfigError
from configs.paths import ROOT
from configs.schema import RunConfig

NOBODY = "http://127.0.0.1:9"  # the discard port


@contextlib.contextmanager
def session(cfg: RunConfig, cpus: float) -> Iterator[None]:
    """Connect to Ray for the time of a run.

    Args:
        cfg: `cluster.address`, or RAY_ADDRESS as a Ray job sets it, joins a cluster; neither
            starts a local Ray that ends with the session.
        cpus: logical CPUs that the run's processes ask for; a local Ray offers as many even
            where the machine has fewer, because its operating system shares them out.

    Raises:
        ConfigError: nothing answers at the address, or it is a job server's.
        RunFailure: the cluster refuses, or a local Ray does not start.
    """
    address = address_of(cfg.cluster.address)
    if address:
        address = reachable(address)
        if "://" in address:
            raise ConfigError(
                f"cluster.address={address}: a job server takes jobs, not members; send the run "
                "there with `cardinal submit`"
            )
        live_nodes(address)  # refuses a cluster with another version of Ray or Python
    environment = {"PYTHONPATH": _python_path(), "RAY_TRAIN_V2_ENABLED": "1"}
    runtime_env = {"env_vars": environment | _own_cluster(address) | _quiet()}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's own 15 starves a run on a machine that does anything else.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        if address:
            ray.init(address=address, runtime_env=runtime_env, log_to_driver=False)
        else:
            ray.init(
                address="local",
                num_cpus=int(local_cpus(cpus)),
                object_store_memory=int(cfg.cluster.object_store_gib * 2**30),
                include_dashboard=False,
                runtime_env=runtime_env,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        what = f"Ray at {address} does not answer" if address else "a local Ray does not start"
        raise RunFailure(f"{what}: {first_line(error)}") from error
    try:
        yield
    except BaseException:
        # A cluster that was joined is left by the driver's own end: after a shutdown, Ray Train's
        # thread would end the process before its error is printed.
        if not address:
            ray.shutdown()
        raise
    ray.shutdown()


def _python_path() -> str:
    """The checkout first, so that workers import it wherever they start."""
    known = os.environ.get("PYTHONPATH", "")
    return f"{ROOT}{os.pathsep}{known}" if known else str(ROOT)


def _own_cluster(address: str | None) -> dict[str, str]:
    """Where Ray Train's helper processes ask whether their actors still live.

    Without this they ask any Ray that they find on the machine; another one has no such actor,
    and they then end the learner group as an orphan. A local Ray has no server to ask: a port
    that nobody serves makes them wait instead.
    """
    if address:
        return {"RAY_ADDRESS": address}
    return {"RAY_API_SERVER_ADDRESS": NOBODY}


def _quiet() -> dict[str, str]:
    return {
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    }
