"""Independent pieces of work on several CPU cores at once, by threads that stay.

A network of a CPU's size has layers too small to be divided among cores: threads inside them mostly wait for each
other. Whole micro-batches have nothing to wait for. What a thread keeps for itself, memory or compiled kernels, it has
at the next step too.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Result = TypeVar("Result")

# Beyond this the interpreter's lock is what the threads wait for.
_MOST_WORKERS = 8


def workers_on(device: torch.device) -> int:
    """How many pieces to compute at a time on a device: its cores, as torch counts them, on a CPU; else 1."""
    return min(torch.get_num_threads(), _MOST_WORKERS) if device.type == "cpu" else 1


def micro_batches(batch: Tensor, most: int, workers: int) -> Sequence[Tensor]:
    """A batch cut into micro-batches of at most that size, as equal as can be and as many for each worker.

    None of an empty batch.
    """
    if not len(batch):
        return ()
    rounds = math.ceil(len(batch) / (most * workers))
    return torch.tensor_split(batch, min(rounds * workers, len(batch)))


def parallel_map(
    function: Callable[[T], Result],
    items: Iterable[T],
    workers: int,
    *,
    threads: int | None = None,
) -> Generator[Result, None, None]:
    """`map`, with `workers` threads that compute ahead of the reader; with one worker, by the reader itself.

    Results come in the order of the items. At most `workers` + 1 of them wait at a time, so memory is bounded. torch
    divides an operation of a worker among `threads` threads, by default its share of the cores. The threads are the
    same at every call; `function` must not call this itself. Closing the generator waits for what is being computed
    and drops the rest.

    Raises:
        what `function` raises, at the place of its item; the rest is not computed.
    """
    if workers == 1:
        yield from map(function, items)
        return
    pool = _pool(workers, threads or max(1, torch.get_num_threads() // workers))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)


@cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, "worker", initializer=_divide_among, initargs=(threads,))


def _divide_among(threads: int) -> None:
    """Let torch divide this thread's operations among so many."""
    torch.get_num_threads()  # else this thread's first operation takes the number that any thread has set last
    torch.set_num_threads(threads)


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
