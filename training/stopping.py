"""Asking a run to stop: the signals that do, and what it raises when it has saved itself."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Stopped(Exception):
    """A run was asked to stop, has saved its state and left. The message says where it was."""


class StopRequest:
    """Within it, SIGTERM, a terminal that closes and the first Ctrl-C ask the run to stop after its step.

    The next Ctrl-C interrupts it. Where a terminal that closes is ignored, as by nohup, it stays so.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        self.signal = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            ignored = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else []
            heard = [number for number in self.SIGNALS if number not in ignored]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
