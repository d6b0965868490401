"""Work on several cores: the order, the memory and the errors of a map."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch

from dpdm_cli.compute.threads import micro_batches, parallel_map, workers_on


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


def test_closing_leaves_no_thread_at_work() -> None:
    begun: list[int] = []
    done: list[int] = []

    def slow(item: int) -> None:
        begun.append(item)
        time.sleep(0.01)
        done.append(item)

    results = parallel_map(slow, range(100), 2)
    next(results)
    results.close()
    assert len(begun) <= 1 + 2 + 1
    assert sorted(done) == sorted(begun)
    time.sleep(0.05)
    assert sorted(done) == sorted(begun)


@pytest.mark.parametrize("workers", [2, 3])
def test_threads_stay_and_each_has_its_own(workers: int) -> None:
    own = threading.local()

    def visits(_: int) -> int:
        own.visits = getattr(own, "visits", 0) + 1
        time.sleep(0.001)
        return threading.get_ident()

    rounds = [set(parallel_map(visits, range(20), workers)) for _ in range(3)]
    assert len(rounds[0].union(*rounds)) <= workers


def test_a_forked_process_has_threads_of_its_own() -> None:
    list(parallel_map(abs, range(10), 2))
    answer, question = os.pipe()
    child = os.fork()
    if not child:
        os.write(question, bytes(parallel_map(abs, range(10), 2)))
        os._exit(0)
    os.close(question)
    assert os.read(answer, 100) == bytes(range(10))
    assert os.waitpid(child, 0) == (child, 0)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("most", [1, 4, 100])
@pytest.mark.parametrize("size", [0, 1, 7, 23, 100])
def test_micro_batches_are_the_batch_in_even_parts_for_each_worker(
    size: int, most: int, workers: int
) -> None:
    batch = torch.randperm(size)
    parts = micro_batches(batch, most, workers)
    assert [int(i) for part in parts for i in part] == batch.tolist()
    sizes = [len(part) for part in parts]
    if size:
        assert 0 < max(sizes) <= most
        assert max(sizes) - min(sizes) <= 1
        assert len(parts) % workers == 0 or len(parts) == size


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
