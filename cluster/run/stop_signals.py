"""SIGINT and SIGTERM: they end a run once, and then no more, so that its end is never interrupted.

While the learner group runs a signal only asks: whoever watches the group gives it the time for a
last checkpoint (`cluster.grace_s`). At any other time the first signal raises.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM: the machine or the time is taken away; the run can come again."""


@contextmanager
def raising_terminated() -> Iterator[None]:
    """SIGTERM inside raises, as SIGINT does by itself."""

    def receive(number: int, frame: FrameType | None) -> None:
        raise Terminated("SIGTERM")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, receive)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopSignals:
    """A context in which both signals end what runs inside; only the main thread gets any.

    Attributes:
        received: signals so far.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._raises = True
        self._ends_at: float | None = None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._receive) for n in SIGNALS}
        return self

    def __exit__(self, *failure: object) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        if self._raises and len(self.received) == 1:
            raise self.error()

    def end(self) -> None:
        """The run ends already: no signal raises any more."""
        self._raises = False

    def error(self) -> KeyboardInterrupt:
        """What the first signal raises."""
        terminated = self.received[0] == signal.SIGTERM
        return Terminated("SIGTERM") if terminated else KeyboardInterrupt()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Signals inside only ask to stop; what ends well is then ended by the first of them."""
        self._raises = False
        yield
        if self.received:
            raise self.error()
        self._raises = True

    def must_end(self, seconds: float, ask: Callable[[], object]) -> bool:
        """Whether a run that was asked to stop has no time left.

        Args:
            seconds: from the first signal on; a second one leaves none.
            ask: asks the run to stop.
        """
        if not self.received:
            return False
        if len(self.received) > 1:
            return True
        if self._ends_at is None:
            self._ends_at = time.monotonic() + seconds
            name = signal.Signals(self.received[0]).name
            print(
                f"{name}: the run ends within {seconds:g} s, with a last checkpoint if it trains; "
                "another signal ends it at once",
                file=sys.stderr,
            )
        ask()
        return time.monotonic() > self._ends_at
