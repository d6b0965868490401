"""What counts as a request to stop, and what as a second one."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from dpdm_cli import signals
from dpdm_cli.signals import SECONDS_OF_ONE_REQUEST, stop_requests


class Clock:
    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


class Gone(Exception):
    """In the place of the end of the process."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    def go(code: int) -> None:
        raise Gone(code)

    clock = Clock()
    monkeypatch.setattr(signals, "time", clock)
    monkeypatch.setattr(signals.os, "_exit", go)
    return clock


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_again_at_once_is_the_same_request(
    clock: Clock, first: int, second: int
) -> None:
    with stop_requests() as stop:
        assert not stop
        os.kill(os.getpid(), first)
        for _ in range(3):
            clock.now += SECONDS_OF_ONE_REQUEST / 4
            os.kill(os.getpid(), second)
        assert stop.signal_number == first


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_later_signal_is_another_request_and_ends_the_process(clock: Clock, number: int) -> None:
    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop
        clock.now += SECONDS_OF_ONE_REQUEST / 2
        os.kill(os.getpid(), number)
        clock.now += SECONDS_OF_ONE_REQUEST
        with pytest.raises(Gone, match=str(128 + number)):
            os.kill(os.getpid(), number)


def test_handlers_are_put_back_and_other_threads_are_let_be() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_requests():
        pass
    seen: list[object] = []

    def elsewhere() -> None:
        with stop_requests() as stop:
            seen.append(bool(stop))
            seen.extend(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [False, *before]
