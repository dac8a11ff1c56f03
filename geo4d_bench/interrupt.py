"""Ctrl-C and ``kill`` as a polite request: the step in hand ends, everything is saved, then the program stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import FrameType


class StopRequest(ExitStack):
    """While entered, the first SIGINT or SIGTERM sets ``received``; a second SIGINT stops at once."""

    received = False

    def __enter__(self) -> StopRequest:
        self.enter_context(_handled(self._handle, signal.SIGINT, signal.SIGTERM))
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True


def ignore_sigint() -> AbstractContextManager[None]:
    """Processes that are started meanwhile ignore Ctrl-C: this one ends them. During their imports, each would print a
    traceback."""
    return _handled(signal.SIG_IGN, signal.SIGINT)


@contextmanager
def _handled(handler: signal._HANDLER, *numbers: signal.Signals) -> Iterator[None]:
    """Handle signals meanwhile; does nothing outside the main thread, which alone can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
