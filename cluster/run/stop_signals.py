"""SIGINT, SIGTERM, SIGHUP: they end a run once, then no more, so that its end is not interrupted.

While the learner group runs a signal only asks: whoever watches the group gives it the time for a
last checkpoint (`cluster.grace_s`). At any other time the first signal raises. One that comes while
the run ends already ends it by force.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from cluster.exit_codes import ExitCode
from cluster.run.last_resort import DONE, end_at_once, tell

TERMINATING = (signal.SIGTERM, signal.SIGHUP)
SIGNALS = (signal.SIGINT, *TERMINATING)


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: the machine, its time or the terminal is taken away; it can come again."""


@contextmanager
def raising_terminated() -> Iterator[None]:
    """SIGTERM and SIGHUP inside raise, as SIGINT does by itself."""

    def receive(number: int, frame: FrameType | None) -> None:
        raise Terminated(signal.Signals(number).name)

    with _handled(TERMINATING, receive):
        yield


@contextmanager
def _handled(
    numbers: tuple[signal.Signals, ...], receive: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Have signals received inside, where they can be; not SIGHUP under `nohup`."""
    main = threading.current_thread() is threading.main_thread()
    nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    heard = [n for n in numbers if main and not (nohup and n == signal.SIGHUP)]
    before = {number: signal.signal(number, receive) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopSignals:
    """A context in which all of them end what runs inside; only the main thread gets any.

    Attributes:
        received: signals so far.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._raises, self._ending, self._done = True, False, False
        self._told = False  # that the run ends, and what another signal does
        self._ends_at: float | None = None
        self._stack = ExitStack()

    def __enter__(self) -> StopSignals:
        self._stack.enter_context(_handled(SIGNALS, self._receive))
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGHUP:
            return  # of a closed terminal both the kernel and the shell tell
        self.received.append(number)
        if self._raises and len(self.received) == 1:
            raise self.error()

    def hold(self) -> None:
        """No signal raises any more; each is still received."""
        self._raises = False

    @contextmanager
    def ending(self) -> Iterator[None]:
        """However what is inside ends, it has then begun to."""
        try:
            yield
        except BaseException:
            self.end()
            raise
        self.end(done=True)

    def end(self, done: bool = False) -> None:
        """The run ends already: another signal ends it by force, even while Ray hears of none.

        done: all that it came to is saved, so that the end by force is no failure.
        """
        self.hold()
        self._done = done
        if self._ending or threading.current_thread() is not threading.main_thread():
            return
        self._ending = True
        if self.received:
            self._tell()
        bell, rings = socket.socketpair()
        rings.setblocking(False)
        before = signal.set_wakeup_fd(rings.fileno(), warn_on_full_buffer=False)
        self._stack.callback(rings.close)  # the thread ends with it
        self._stack.callback(signal.set_wakeup_fd, before)
        threading.Thread(target=self._listen, args=(bell,), name="signals", daemon=True).start()

    def _listen(self, bell: socket.socket) -> None:
        """Hear what the main thread may be too busy to: each byte is a signal's number."""
        with bell:
            while ring := bell.recv(1):
                number = ring[0]
                if number not in (signal.SIGINT, signal.SIGTERM):
                    continue  # a closed terminal is told of twice
                if self._told:
                    self._end_by_force((self.received or [number])[0])
                else:
                    self._tell()

    def _tell(self) -> None:
        self._told = True
        tell("ending Ray and the engines; another signal ends them by force")

    def _end_by_force(self, number: int) -> None:
        code = ExitCode.TAKEN_AWAY if number in TERMINATING else ExitCode.INTERRUPTED
        by_signal = f"ended by force after {signal.Signals(number).name}", code
        end_at_once(*(DONE if self._done else by_signal))

    def error(self) -> KeyboardInterrupt:
        """What the first signal raises."""
        number = self.received[0]
        name = signal.Signals(number).name
        return Terminated(name) if number in TERMINATING else KeyboardInterrupt()

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
        ask()  # first: what is said meets whatever reads it
        if self._ends_at is None:
            self._ends_at = time.monotonic() + seconds
            name = signal.Signals(self.received[0]).name
            print(
                f"{name}: the run ends within {seconds:g} s, with a last checkpoint if it trains; "
                "another signal ends it at once",
                file=sys.stderr,
            )
        return time.monotonic() > self._ends_at
