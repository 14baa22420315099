"""How often a run bears the loss of its learner group: so many times from one checkpoint.

Ray Train counts the losses of a whole run, so that a long one would end for three that have
nothing to do with one another. Its controller asks this, and the driver where that is lost itself.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ray.exceptions import RayActorError, RayTaskError
from ray.train import ControllerError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus

from cluster.checkpoints.cursor import Cursor
from cluster.failures import cause_of_ranks
from cluster.run.lease import Token
from cluster.run.patience import Patience
from cluster.run.run_folder import read_losses, write_failure, write_losses

# Ray's own, and private: a rank died while it started; its placement was not met in time.
STARTUP, LATE = "WorkerGroupStartupFailedError", "WorkerGroupStartupTimeoutError"


class RestartLimit(WorkerGroupCallback):
    """Has the driver end the run once its group was lost too often without a new checkpoint.

    A group is lost once, however often Ray Train looks at it after that: on a node that is drained,
    until all ranks have ended or the drain's deadline has passed.

    most: restarts from one checkpoint (`learner.max_restarts`).
    """

    def __init__(self, token: Token, most: int) -> None:
        self._token, self._most = token, most
        self._counted = False  # the loss of the present group

    def before_worker_group_start(self, worker_group_context: object) -> None:
        """Another group begins."""
        self._counted = False

    def after_worker_group_poll_status(self, worker_group_status: WorkerGroupPollStatus) -> None:
        """Where ranks have failed, or are silent, the group starts again from the cursor."""
        if worker_group_status.errors and not self._counted:
            self._counted = True
            self.bears(cause_of_ranks(worker_group_status.errors))

    def bears(self, cause: str) -> bool:
        """Count a loss of the group; whether it may start again."""
        folder = Path(self._token.folder)
        storage = Patience(folder)
        cursor = storage.insist(partial(Cursor.load, folder / "checkpoints"))
        place = f"{cursor.place} {cursor.state}"
        causes = [*storage.insist(partial(read_losses, folder, place)), cause]
        storage.insist(partial(write_losses, self._token, place, causes))
        times = len(causes)
        if times <= self._most:
            return True
        sentence = f"the learner group failed: {causes[0]}"
        if times > 1:
            sentence += (
                f" (the first of {times} losses since {cursor.place}, without a checkpoint "
                f"between them; learner.max_restarts={self._most})"
            )
        storage.insist(partial(write_failure, self._token, sentence))
        return False


def is_loss(error: Exception, had_place: bool) -> bool:
    """Whether a group failed for want of a process or of its place: another might not fail so.

    Ray Train itself starts a group again that it had started.

    Args:
        error: of its controller, or of its processes.
        had_place: an earlier group has had one, so the cluster can hold it.
    """
    if isinstance(error, ControllerError):
        cause = error.controller_failure
        lost, kind = isinstance(cause, RayActorError | RayTaskError), type(cause).__name__
        return lost or kind == STARTUP or (had_place and kind == LATE)
    return isinstance(error, RayActorError)
