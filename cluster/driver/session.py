"""The Ray session of a run: join the cluster that was named, or start a local one.

Input: the configuration's cluster section. Output: a connected Ray, which ends with the context.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import ray
from ray._raylet import Config  # type: ignore[attr-defined]

from cluster.deadlines import KILL
from cluster.failures import DeadlineExceeded, RunFailure, first_line
from cluster.placement.nodes import address_of, live_nodes, local_cpus, reachable
from cluster.run.last_resort import ray_is_asked, within
from cluster.run.left_processes import end_own, mark_own
from cluster.run.logs import last_words, session_logs
from cluster.run.outcome import outcome
from cluster.run.stop_signals import Terminated
from cluster.run.stop_wait import extend_stop_wait
from cluster.wait import wait_for
from configs.load import ConfigError
from configs.paths import ROOT
from configs.schema import RunConfig

# Else Ray keeps 2 KB of each call, for its dashboard.
LOCAL = {"task_events_report_interval_ms": 0} | KILL
END_S = 5.0  # for killed processes to be gone
SHUTDOWN_S = 25.0  # for a local Ray to end by itself


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
        RunFailure: the cluster refuses, or a local Ray or its worker processes do not start.
    """
    address = _address(cfg)
    try:
        _connect(cfg, address, cpus)
        extend_stop_wait(cfg.cluster)
        _start_worker_process(cfg.cluster.start_deadline_s)
        yield
    except BaseException as error:
        # A cluster that was joined is left by the driver's own end: after a shutdown, Ray Train's
        # thread would end the process before its error is printed.
        if not address:
            with within(SHUTDOWN_S, "Ray", *outcome(error)):
                if ray_is_asked():  # in what a shutdown frees: it would crash this process
                    end_own()
                else:
                    ray.shutdown()
        raise
    ray.shutdown()


def _address(cfg: RunConfig) -> str | None:
    """The address of the cluster to join, once it has answered; None for a local Ray."""
    address = address_of(cfg.cluster.address)
    if not address:
        return None
    address = reachable(address)
    if "://" in address:
        raise ConfigError(
            f"cluster.address={address}: a job server takes jobs, not members; send the run "
            "there with `cardinal submit`"
        )
    live_nodes(address)  # refuses a cluster with another version of Ray or Python
    return address


def _connect(cfg: RunConfig, address: str | None, cpus: float) -> None:
    environment = {
        "PYTHONPATH": _python_path(),
        "RAY_TRAIN_V2_ENABLED": "1",
        # Ray Train's own 30 s keep a group with a rank that hangs from being started again.
        "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "2",
    }
    runtime_env: dict[str, object] = {"env_vars": environment | _quiet()}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's own 15 starves a run on a machine that does anything else.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Engines start in the background; who waits for them raises the error, in one line.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            ray.init(address=address, runtime_env=runtime_env, log_to_driver=False)
        else:
            # Ray puts the interpreter's path into a line of bash as it is; it may hold a space.
            runtime_env["py_executable"] = shlex.quote(sys.executable)
            _use_token()
            _start_local(cfg, cpus, runtime_env)
    except SystemExit:  # by Ray's own handler of SIGTERM
        raise Terminated("SIGTERM") from None
    except Exception as error:  # the boundary to Ray, which raises all kinds at its start
        what = f"Ray at {address} does not answer" if address else "a local Ray does not start"
        words = "" if address else _last_words()
        raise RunFailure(f"{what}: {first_line(error)}{words}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _use_token() -> None:
    """Choose what Ray would for a local cluster, its token; of what it chooses itself it warns."""
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")  # it has read the variable already


def _start_local(cfg: RunConfig, cpus: float, runtime_env: dict[str, object]) -> None:
    """Start Ray; on a busy machine again, for it gives itself 30 s and the run has its deadline."""
    deadline = time.monotonic() + cfg.cluster.start_deadline_s
    mark_own()
    while True:
        before = set(psutil.Process().children(recursive=True))
        try:
            ray.init(
                address="local",
                num_cpus=int(local_cpus(cpus)),
                object_store_memory=int(cfg.cluster.object_store_gib * 2**30),
                include_dashboard=False,
                _system_config=LOCAL,
                runtime_env=runtime_env,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        except BaseException as error:  # Ray has no type of its own for it; or a signal
            _end_processes_since(before)
            if "timed out during startup" not in str(error) or time.monotonic() > deadline:
                raise
            print("a local Ray did not start in its 30 s, the machine is busy; once more")
        else:
            return


def _end_processes_since(before: set[psutil.Process]) -> None:
    """End what a failed start of Ray leaves running: it forgets its servers until we exit."""
    left = set(psutil.Process().children(recursive=True)) - before
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=END_S)


def _nothing() -> None:
    """What a worker process does to prove that it starts, and finds this checkout."""


def _last_words() -> str:
    """What Ray's own processes said before they died, with the place of their logs."""
    logs = session_logs()
    words = last_words(logs) if logs else ""
    return f": {words} (logs: {logs})" if words else ""


def _start_worker_process(seconds: float) -> None:
    """Have Ray start a worker process, which all actors need.

    Ray starts one that dies again and again, and tells nobody.

    Raises:
        DeadlineExceeded: none has started; with what it said last.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(_nothing)
    try:
        wait_for(task.remote(), "Ray", "start a worker process", seconds, "start_deadline_s")
    except DeadlineExceeded as error:
        raise RunFailure(f"{error}{_last_words()}") from error


def _python_path() -> str:
    """The checkout first, so that workers import it wherever they start."""
    known = os.environ.get("PYTHONPATH", "")
    return f"{ROOT}{os.pathsep}{known}" if known else str(ROOT)


def _quiet() -> dict[str, str]:
    return {
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    }
