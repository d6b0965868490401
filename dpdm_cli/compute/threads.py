"""Independent pieces of work on several CPU cores at once.

A network of a CPU's size has layers too small to be divided among cores: threads inside them mostly wait for each
other. Whole micro-batches have nothing to wait for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
Result = TypeVar("Result")

# Beyond this the interpreter's lock is what the threads wait for.
_MOST_WORKERS = 8


def workers_on(device: torch.device) -> int:
    """How many pieces to compute at a time on a device: its cores, as torch counts them, on a CPU; else 1."""
    return min(torch.get_num_threads(), _MOST_WORKERS) if device.type == "cpu" else 1


def parallel_map(
    function: Callable[[T], Result],
    items: Iterable[T],
    workers: int,
    *,
    threads: int | None = None,
) -> Generator[Result, None, None]:
    """`map`, with `workers` threads that compute ahead of the reader.

    Results come in the order of the items. At most `workers` + 1 of them wait at a time, so memory is bounded. torch
    divides an operation of a worker among `threads` threads, by default its share of the cores. Closing the generator
    waits for what is being computed and drops the rest.

    Raises:
        what `function` raises, at the place of its item; the rest is not computed.
    """
    if workers == 1:
        yield from map(function, items)
        return
    share = threads or max(1, torch.get_num_threads() // workers)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(share,))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
