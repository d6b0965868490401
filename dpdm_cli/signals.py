"""SIGINT and SIGTERM as a request: finish the current step, save, stop. A second request stops at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS_OF_ONE_REQUEST = 2.0
"""Seconds within which signals are one request: stopping a whole job signals its process group, and torchrun, which is
in that group too, passes the signal on to its workers, so that each of them gets it twice within milliseconds."""


class StopRequest:
    """Whether, and by which signal, the process was asked to stop."""

    def __init__(self) -> None:
        self.signal_number = 0

    def __bool__(self) -> bool:
        return self.signal_number != 0


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM where nothing has to be saved.

    Args:
        signal_number: the signal received.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.signal_number = signal_number


@contextmanager
def stops() -> Iterator[None]:
    """Raise `Stopped` on SIGINT or SIGTERM wherever no `stop_requests` catches them, so that what is half done is
    removed; a second one ends the process. Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Stopped(number)

    previous = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM for the duration. Does nothing outside the main thread."""
    request = StopRequest()
    asked_at = 0.0
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked_at
        if not request:
            asked_at, request.signal_number = time.monotonic(), number
        elif time.monotonic() - asked_at > SECONDS_OF_ONE_REQUEST:
            # Whoever asks twice does not want to wait; the last saved state is whole.
            os._exit(128 + number)

    previous = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
