"""How often a run bears the loss of its learner group: so many times from one checkpoint.

Ray Train counts the losses of a whole run, so that a long one would end for three that have
nothing to do with one another. This runs in its controller.
"""

from __future__ import annotations

from pathlib import Path

from ray.train import UserCallback

from cluster.cursor import Cursor
from cluster.failures import cause_of_ranks
from cluster.lease import Token
from cluster.run_folder import write_failure, write_loss


class RestartLimit(UserCallback):
    """Has the driver end the run once its group was lost too often without a new checkpoint.

    most: restarts from one checkpoint (`learner.max_restarts`).
    """

    def __init__(self, token: Token, most: int) -> None:
        self._token, self._most = token, most
        self._cursor: Cursor | None = None
        self._causes: list[str] = []  # of losses since the cursor moved

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """Ranks have failed, or are silent; the group starts again from the cursor."""
        cursor = Cursor.load(Path(self._token.folder) / "checkpoints")
        if cursor != self._cursor:
            self._cursor, self._causes = cursor, []
        cause = cause_of_ranks(worker_exceptions)
        self._causes.append(cause)
        write_loss(self._token, cause)
        times = len(self._causes)
        if times > self._most:
            sentence = f"the learner group failed: {self._causes[0]}"
            if times > 1:
                sentence += (
                    f" (the first of {times} losses since {cursor.place}, without a checkpoint "
                    f"between them; learner.max_restarts={self._most})"
                )
            write_failure(self._token, sentence)
