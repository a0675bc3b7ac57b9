"""Ending in good order when a signal asks for it."""

import signal
import threading
from types import FrameType
from typing import Any


class StopSignal:
    """SIGTERM, Ctrl-C and a terminal that closes (SIGHUP, which nohup ignores) end the run at the next step with a
    checkpoint; a second Ctrl-C ends it at once.

    A context manager: inside it the signals are caught, after it the former handlers are back.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python gives signals to the main thread, which does not train here
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number
