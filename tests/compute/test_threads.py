"""Work on several cores: the order, the memory and the errors of a map."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from dpdm_cli.compute.threads import parallel_map, workers_on


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    def slow_when_early(item: int) -> int:
        time.sleep(0.002 * (10 - item))
        return item * item

    assert list(parallel_map(slow_when_early, range(10), workers)) == [i * i for i in range(10)]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_only_a_few_items_are_ahead_of_the_reader(workers: int) -> None:
    begun: list[int] = []
    for read, _ in enumerate(parallel_map(begun.append, range(50), workers)):
        time.sleep(0.001)
        assert len(begun) <= read + 1 + workers
    assert len(begun) == 50


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_comes_in_its_place_and_ends_the_work(workers: int) -> None:
    begun: list[int] = []

    def failing(item: int) -> int:
        begun.append(item)
        if item == 4:
            raise ValueError("the fourth")
        return item

    results = parallel_map(failing, range(100), workers)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="the fourth"):
        next(results)
    assert len(begun) <= 4 + 1 + workers
    assert not any(thread.name.startswith("ThreadPool") for thread in threading.enumerate())


def test_closing_leaves_no_thread_at_work() -> None:
    results = parallel_map(lambda item: item, range(100), 2)
    next(results)
    results.close()
    assert not any(thread.name.startswith("ThreadPool") for thread in threading.enumerate())


def test_workers_share_the_cores_and_leave_the_caller_its_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert workers_on(torch.device("cpu")) == 4
        assert workers_on(torch.device("cuda")) == 1
        assert list(parallel_map(lambda _: torch.get_num_threads(), range(4), 2)) == [2] * 4
        one_each = parallel_map(lambda _: torch.get_num_threads(), range(4), 2, threads=1)
        assert list(one_each) == [1] * 4
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
