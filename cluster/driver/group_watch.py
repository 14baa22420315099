"""The driver's look at Ray Train's controller, which starts learner groups and watches their ranks.

It waits without a deadline for ranks that start, and nobody else waits for it: so it gives signs,
in RUN/controller.json, and is ended where they fail to come. The driver then begins another group.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller.state import (
    PreemptingState,
    RunningState,
    TrainControllerState,
)
from ray.train.v2._internal.execution.worker_group import Worker

from cluster.driver.buffer_watch import LOOK_S
from cluster.failures import DeadlineExceeded, name_process
from cluster.run.lease import Owner, Token
from cluster.run.patience import passes
from cluster.run.run_folder import CONTROLLER
from configs.disk import replace_file
from configs.schema import ClusterConfig
from rollout.awake import Awake

WHO = "Ray Train's controller"
GRACE_S = 5.0  # so that Ray Train's own error for a placement, with the same deadline, comes first
LEAST_S = 5.0  # of silence while it watches ranks: it gives a sign every two seconds or so


class Sign(NamedTuple):
    """What the controller said last.

    at: when, ns, by the clock of the folder; only its changes count.
    watches: whether it watches ranks that work; else it starts or ends a group.
    """

    at: int
    watches: bool
    owner: Owner


class Signs(ControllerCallback, WorkerGroupCallback):
    """Gives the signs; runs in the controller, which calls these methods."""

    def __init__(self, token: Token) -> None:
        self._token = token
        self._watches = False
        self._said: bool | None = None  # of `_watches`

    def after_controller_start(self, train_run_context: object) -> None:
        """It has begun."""
        name_process(WHO)
        self._say(watches=False)

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        """It goes on to something else."""
        self._say(watches=isinstance(current_state, RunningState | PreemptingState))

    def before_worker_group_start(self, worker_group_context: object) -> None:
        """It asks for a placement."""
        self._again()

    def before_init_train_context(self, workers: list[Worker]) -> dict[str, list[object]]:
        """All ranks have a process."""
        self._again()
        return {}

    def after_worker_group_start(self, worker_group: object) -> None:
        """All ranks know of each other."""
        self._again()

    def after_worker_group_poll_status(self, worker_group_status: object) -> None:
        """It has looked at the ranks."""
        self._again()

    def _say(self, *, watches: bool) -> None:
        self._watches = watches
        self._again()

    def _again(self) -> None:
        try:
            self._token.check()  # else an old run's sign would be taken for the new one's
            if self._said == self._watches:
                os.utime(Path(self._token.folder, CONTROLLER))
                return
            content = {"watches": self._watches, "owner": asdict(Owner.this_process())}
            replace_file(Path(self._token.folder, CONTROLLER), json.dumps(content))
            self._said = self._watches
        except OSError as error:  # the driver has ended its time, or the folder is away a moment
            if not passes(error):
                raise


class GroupWatch:
    """Ends a controller that gives no sign: while it starts a group, or while it watches one.

    Where it has given none yet there is nothing to end: it is given the time of a start again.

    most_waits: for how many such times more (`learner.max_restarts`).

    Attributes:
        loss: why it was ended last; nothing until then.
        worked: whether any group has come through its start.
    """

    def __init__(
        self,
        folder: Path,
        cluster: ClusterConfig,
        most_waits: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file, self._cluster, self._clock = folder / CONTROLLER, cluster, Awake(clock)
        self._most, self._waits = most_waits, 0
        self._sign: Sign | None = None
        self._since: float | None = None  # when it came; None while no controller is to give any
        self.loss, self.worked = "", False

    def begin(self) -> None:
        """From now on there is to be a controller, a new one."""
        self._file.unlink(missing_ok=True)
        self._sign, self._since, self._waits, self.loss = None, self._clock(), 0, ""

    def check(self) -> None:
        """Look, without waiting.

        Raises:
            DeadlineExceeded: there is none that could be ended, however long it is waited for.
            OSError: its signs cannot be read.
        """
        now = self._clock()
        if self._since is None:
            return
        try:
            sign = self._read()
        except OSError:
            self._since = now  # it may give them all the same
            raise
        if sign != self._sign:
            self._sign, self._since = sign, now
        watches = sign is not None and sign.watches
        self.worked |= watches
        key = "heartbeat_s" if watches else "start_deadline_s"
        seconds: float = getattr(self._cluster, key)
        # Its last sign was seen a look late, and so is this moment.
        silent_s = max(LEAST_S, seconds - 2 * LOOK_S) if watches else seconds + GRACE_S
        if now - self._since < silent_s:
            return
        what = "look at the learner ranks" if watches else "start the learner group"
        failure = DeadlineExceeded(WHO, what, seconds, key)
        if sign is None or not sign.owner.lives():
            if self._waits == self._most:
                raise failure
            self._since, self._waits = now, self._waits + 1
            print(f"{failure}; it is waited for again", file=sys.stderr)
            return
        os.kill(sign.owner.pid, signal.SIGKILL)  # it is on the driver's node, and its ranks go too
        self._file.unlink(missing_ok=True)
        self._sign, self._since, self.loss = None, now, str(failure)
        print(f"{failure}; it is ended, and the learner group starts again", file=sys.stderr)

    def _read(self) -> Sign | None:
        try:
            with self._file.open() as stream:
                content, at = json.load(stream), os.fstat(stream.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None
        return Sign(at, content["watches"], Owner(**content["owner"]))
