"""The state of one part of a run that may be lost and replaced. Plain Python, without a clock.

A part starts, serves, is suspect while it is silent, and is lost once it is dead or silent for too
long; it is then replaced and starts again. Losses one after another are waited out longer and
longer, and at last end the run.
"""

from __future__ import annotations

from enum import StrEnum

SOUND_S = 30.0  # a part that has served well for so long is sound: earlier losses no longer count
LONGEST_BACKOFF_S = 60.0


class State(StrEnum):
    """Where a part is between its start and its replacement."""

    STARTING = "starting"
    SERVING = "serving"
    SUSPECT = "suspect"
    LOST = "lost"
    REPLACING = "replacing"


TRANSITIONS = {
    State.STARTING: {State.SERVING, State.LOST},
    State.SERVING: {State.SUSPECT, State.LOST},
    State.SUSPECT: {State.SERVING, State.LOST},
    State.LOST: {State.REPLACING},
    State.REPLACING: {State.STARTING, State.LOST},
}


class Part:
    """One part.

    most_losses: one after another that are borne; one more ends the run.
    losses: all so far.
    since: when it came into its state, in the caller's seconds.
    """

    def __init__(self, most_losses: int, now: float) -> None:
        self.state, self.since, self.losses = State.STARTING, now, 0
        self._most, self._causes = most_losses, list[str]()
        self._serving_since = now

    @property
    def present(self) -> bool:
        """Whether it is at work: serving, or only suspect."""
        return self.state in (State.SERVING, State.SUSPECT)

    def move(self, state: State, now: float) -> None:
        """Go to a state other than lost."""
        assert state != State.LOST, "a loss has a cause"
        if state == State.SERVING and self.state == State.STARTING:
            self._serving_since = now
        self._move(state, now)

    def lose(self, cause: str, now: float, silent_s: float = 0.0) -> None:
        """It is dead, or was silent for so long: of that time nobody knows that it served."""
        if self.present and now - self._serving_since - silent_s >= SOUND_S:
            self._causes.clear()
        self._move(State.LOST, now)
        self._causes.append(cause)
        self.losses += 1

    def _move(self, state: State, now: float) -> None:
        assert state in TRANSITIONS[self.state], f"a part that is {self.state} cannot be {state}"
        self.state, self.since = state, now

    @property
    def backoff_s(self) -> float:
        """How long to wait before it is replaced; a first loss is no reason to wait."""
        repeated = len(self._causes) - 1
        return min(LONGEST_BACKOFF_S, 2.0 ** (repeated - 1)) if repeated > 0 else 0.0

    @property
    def given_up(self) -> str | None:
        """Once it was lost too often in a row: the first cause and, if it is another, the last."""
        if len(self._causes) <= self._most:
            return None
        first, last = self._causes[0], self._causes[-1]
        return first if last == first else f"{first}; last: {last}"
