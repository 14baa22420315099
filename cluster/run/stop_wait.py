"""A Ray job gets the time for a last checkpoint between its stop and its end by force.

`cardinal submit` asks for that time itself. A job that `ray job submit` has sent would have Ray's
own three seconds: its driver has them extended.
"""

from __future__ import annotations

import json
import os
import sys

import ray
from ray import ObjectRef
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.exceptions import RayError

from cluster.deadlines import STOP_WAIT, stop_wait_s
from cluster.failures import first_line
from configs.load import ConfigError
from configs.schema import ClusterConfig

RAYS_OWN_S = 3.0  # where nobody says how long
ANSWER_S = 10.0  # for Ray's supervisor of the job


def extend_stop_wait(cluster: ClusterConfig) -> None:
    """Have Ray wait for this job's end as long as a run may take, unless its submitter chose.

    To be called by the driver once it has joined the cluster; what is no Ray job has no such end.
    A time that is too short is kept, and told.

    Raises:
        ConfigError: what the submitter chose is no number of seconds.
    """
    job = _submission_id()
    if job is None:
        return
    chosen, why = _chosen_s(), STOP_WAIT
    if chosen is None:
        try:
            _tell_supervisor(job, stop_wait_s(cluster))
        except (ImportError, ValueError, RayError) as error:  # another Ray than ours, or it is gone
            why = f"it cannot be told to wait longer: {first_line(error)}"
        else:
            return
    seconds = RAYS_OWN_S if chosen is None else chosen
    if seconds < cluster.grace_s:
        print(
            f"job {job}: stopped, it is killed after {seconds:g} s ({why}), within which its last "
            f"checkpoint may not be written (cluster.grace_s={cluster.grace_s:g}): the run then "
            "goes on from the one before",
            file=sys.stderr,
        )


def _submission_id() -> str | None:
    """The Ray job that this process drives, if any."""
    config = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}"))
    name: str | None = config.get("metadata", {}).get("job_submission_id")
    return name


def _chosen_s() -> int | None:
    text = os.environ.get(STOP_WAIT)
    if text is not None and not text.isdigit():  # with another, Ray kills the job at its stop
        raise ConfigError(f"{STOP_WAIT}={text}: must be a whole number of seconds, 0 or more")
    return None if text is None else int(text)


def _tell_supervisor(job: str, seconds: int) -> None:
    """Set the variable in the process of the job's supervisor, which reads it at the stop."""
    from ray.dashboard.modules.job.common import (
        JOB_ACTOR_NAME_TEMPLATE,
        SUPERVISOR_ACTOR_RAY_NAMESPACE,
    )

    def set_variable(supervisor: object, name: str, value: str) -> None:
        os.environ[name] = value

    name = JOB_ACTOR_NAME_TEMPLATE.format(job_id=job)
    supervisor = ray.get_actor(name, namespace=SUPERVISOR_ACTOR_RAY_NAMESPACE)
    told: ObjectRef[None] = supervisor.__ray_call__.remote(set_variable, STOP_WAIT, str(seconds))
    ray.get(told, timeout=ANSWER_S)
