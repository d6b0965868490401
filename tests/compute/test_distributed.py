"""Several processes: what they share out, add up and agree on, and that none goes on when another has failed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.processes_launcher import Exited, launch
from torch import Tensor

from dpdm_cli.compute import launched, rendezvous
from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.compute.rendezvous import joined
from dpdm_cli.errors import (
    DamagedFileError,
    DataError,
    InterruptedRunError,
    ResourceError,
    UsageError,
)

SIZES = [1, 2, 3]
LENGTHS = [0, 1, 2, 7]
CPU = torch.device("cpu")


def in_processes(work: Callable[..., Any], *args: Any) -> Any:
    with joined(CPU) as processes:
        return work(processes, *args)


def several(size: int, work: Callable[..., Any], *args: Any, **options: Any) -> list[Any]:
    """What `work(processes, *args)` gives in each of so many processes."""
    return launch(size, in_processes, work, *args, **options)


def shares(processes: Processes) -> list[list[int]]:
    def draw(length: int) -> Tensor:
        assert processes.is_first
        return torch.arange(100, 100 + length)

    return [processes.scatter_indices(lambda n=n: draw(n)).tolist() for n in LENGTHS]  # type: ignore[misc]


@pytest.mark.parametrize("size", SIZES)
def test_what_the_first_draws_is_shared_out_once_and_evenly(size: int) -> None:
    by_rank = several(size, shares)
    for n, parts in zip(LENGTHS, zip(*by_rank, strict=True), strict=True):
        assert [i for part in parts for i in part] == list(range(100, 100 + n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_spans_cover_every_index_once(size: int) -> None:
    for count in (0, 1, 2, 7, 100):
        spans = [Processes(rank, size).span(count) for rank in range(size)]
        assert [i for span in spans for i in span] == list(range(count))


def sums(processes: Processes) -> list[tuple[int, list[float]]]:
    found = []
    for n in LENGTHS[1:]:
        mine = torch.arange(n, dtype=torch.float32) * 10**processes.rank
        part = processes.reduce_scatter(mine)
        found.append((len(part), processes.all_gather(part).flatten()[:n].tolist()))
    return found


@pytest.mark.parametrize("size", SIZES)
def test_a_sum_lies_in_parts_and_is_put_together_to_its_length(size: int) -> None:
    factor = sum(10**rank for rank in range(size))
    for found in several(size, sums):
        for n, (part, total) in zip(LENGTHS[1:], found, strict=True):
            assert part == -(-n // size)
            assert total == [factor * i for i in range(n)]


def exchanges(processes: Processes) -> dict[str, Any]:
    mine = torch.full((2, 3), processes.rank, dtype=torch.uint8)
    gather = processes.gather(mine.T)
    rows = torch.arange(processes.size * 6, dtype=torch.uint8).reshape(processes.size, 2, 3)
    given = rows if processes.is_first else None
    tensors = {"a": torch.arange(3.0), "empty": torch.zeros(0, 2), "one": torch.tensor(7)}

    def read() -> tuple[dict[str, Tensor], dict[str, int]]:
        assert processes.is_first
        return tensors, {"n": 5}

    sent, facts = processes.broadcast_tensors(read)
    return {
        "all_gather": processes.all_gather(mine)[:, 0, 0].tolist(),
        "gather": None if gather is None else gather[:, 0, 0].tolist(),
        "row": processes.scatter(given, (2, 3), torch.uint8).flatten().tolist(),
        "all_reduce_max": processes.all_reduce_max(processes.rank, -processes.rank, 5),
        "broadcast": processes.broadcast(lambda: [processes.rank, None, "é"]),
        "sent": {name: (tensor.dtype, tensor.tolist()) for name, tensor in sent.items()},
        "facts": facts,
    }


@pytest.mark.parametrize("size", SIZES)
def test_what_processes_hand_each_other_arrives(size: int) -> None:
    for rank, found in enumerate(several(size, exchanges)):
        everyone = list(range(size))
        assert found["all_gather"] == everyone
        assert found["gather"] == (everyone if rank == 0 else None)
        assert found["row"] == list(range(6 * rank, 6 * rank + 6))
        assert found["all_reduce_max"] == [size - 1, 0, 5]
        assert found["broadcast"] == [0, None, "é"]
        assert found["sent"] == {
            "a": (torch.float32, [0.0, 1.0, 2.0]),
            "empty": (torch.float32, []),
            "one": (torch.int64, 7),
        }
        assert found["facts"] == {"n": 5}


def test_one_process_alone_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with joined(CPU) as processes:
        assert processes is ALONE
        assert exchanges(processes)["row"] == list(range(6))
        assert shares(processes)[-1] == list(range(100, 107))
        with pytest.raises(DataError, match=r"^mine$"), processes.together():
            raise DataError("mine")


class FrozenStore:
    """A store on a machine that was cut off: it never answers."""

    def check(self, keys: list[str]) -> bool:
        time.sleep(3600)
        return False

    compare_set = get = check


def test_a_store_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpdm_cli.compute.distributed._WAIT_FOR_REASON", 0.1)
    began = time.monotonic()
    processes = Processes(0, 2, FrozenStore())
    assert "lost another one" in str(processes._lost(RuntimeError("closed")))
    processes.tell_failure(RuntimeError("mine"))
    assert time.monotonic() - began < 5


def join_again_and_again() -> list[int]:
    found = []
    for turn in range(3):
        with joined(torch.device("cpu")) as processes:
            found += processes.all_reduce_max(10 * turn + processes.rank)
    return found


def test_processes_may_work_together_more_than_once() -> None:
    assert launch(3, join_again_and_again) == 3 * [[2, 12, 22]]


def fail_in_block(processes: Processes, failing: int, error: Exception) -> None:
    with processes.together():
        if processes.rank == failing:
            raise error


@pytest.mark.parametrize("failing", [0, 2])
@pytest.mark.parametrize(
    "error", [DataError("bad image", "look"), UsageError("bad option", "ask"), DamagedFileError("")]
)
def test_what_one_raises_in_a_block_all_raise_and_say_whose_it_is(
    failing: int, error: DataError
) -> None:
    for rank, found in enumerate(several(3, fail_in_block, failing, error)):
        prefix = "" if rank == failing else f"process {failing}: "
        assert type(found) is type(error)
        assert (found.message, found.hint) == (prefix + error.message, error.hint)


def test_an_error_that_is_a_bug_keeps_its_kind_where_it_is_and_ends_the_others() -> None:
    first, second = several(2, fail_in_block, 1, LookupError("by nought"))
    assert isinstance(second, LookupError)
    assert isinstance(first, ResourceError)
    assert "process 1: LookupError: by nought" in first.message


def stop_in_block(processes: Processes) -> None:
    with processes.together():
        if processes.rank == 1:
            raise InterruptedRunError("stopped", "go on", signal.SIGTERM)


def test_an_interruption_has_one_exit_code_everywhere() -> None:
    found = several(2, stop_in_block)
    assert [(type(e), e.exit_code, e.message) for e in found] == [
        (InterruptedRunError, 143, "stopped")
    ] * 2


def fail_in_first(processes: Processes) -> None:
    def make() -> None:
        raise DataError(f"from {processes.rank}")

    processes.broadcast(make)


def test_what_the_first_raises_all_raise() -> None:
    assert [e.message for e in several(3, fail_in_first)] == [
        "from 0",
        "process 0: from 0",
        "process 0: from 0",
    ]


def fail_outside(processes: Processes) -> None:
    if processes.rank == 1:
        raise DataError("no such thing", "look elsewhere")
    processes.all_reduce_max(processes.rank)
    processes.all_reduce_max(processes.rank)


def test_who_fails_between_two_calls_leaves_word_for_those_who_wait() -> None:
    found = several(3, fail_outside)
    assert [type(e) for e in found] == [DataError] * 3
    assert found[1].message == "no such thing"
    for other in (found[0], found[2]):
        assert (other.message, other.hint) == ("process 1: no such thing", "look elsewhere")


def fail_in_first_alone(processes: Processes) -> None:
    if not processes.is_first:
        os.kill(os.getpid(), signal.SIGKILL)
    fail_in_first(processes)


def test_what_the_first_raises_it_raises_also_when_another_is_gone() -> None:
    first, other = several(2, fail_in_first_alone)
    assert isinstance(first, DataError), first
    assert first.message == "from 0"
    assert isinstance(other, Exited)


def compare(processes: Processes, odd: int) -> None:
    digest = "b" if processes.rank == odd else "a"
    processes.check_same(digest, "the files", "copy them again")


def test_a_difference_is_found_and_named_in_all() -> None:
    assert several(2, compare, -1) == [None, None]
    for found in several(3, compare, 2):
        assert isinstance(found, ResourceError)
        assert found.message == "the files of process 2 of 3 differ from those of process 0"


_SLEEP = 12.0  # seconds


def die(processes: Processes, dying: int, how: str) -> None:
    processes.all_reduce_max(0)
    if processes.rank == dying:
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(_SLEEP)
    for _ in range(3):
        processes.all_reduce_max(0)
        processes.gather(torch.zeros(1))
        processes.broadcast(lambda: None)


def give_up_on_one(processes: Processes, dying: int, how: str) -> float:
    """Seconds until this process, which is not the one that dies, was told that one is lost."""
    if processes.rank == dying:
        die(processes, dying, how)
    began = time.monotonic()
    with pytest.raises(
        ResourceError,
        match=f"process {processes.rank} of {processes.size} has lost another one",
    ):
        die(processes, dying, how)
    return time.monotonic() - began


@pytest.mark.parametrize("dying", [0, 1])
def test_a_killed_process_ends_the_others_soon(dying: int) -> None:
    found = several(3, give_up_on_one, dying, "kill")
    killed = found.pop(dying)
    assert isinstance(killed, Exited)
    assert killed.code == -signal.SIGKILL
    assert max(found) < 20


@pytest.mark.slow
def test_a_silent_process_is_not_waited_for_beyond_the_limit() -> None:
    waiting, late = several(2, give_up_on_one, 1, "sleep", environment={"DPDM_TIMEOUT": "5"})
    assert 4 < waiting < _SLEEP
    assert isinstance(late, ResourceError)


@pytest.mark.parametrize("stated", ["soon", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_no_time_is_refused(stated: str) -> None:
    (found,) = launch(1, in_processes, exchanges, environment={"DPDM_TIMEOUT": stated})
    assert isinstance(found, UsageError)
    assert stated in found.message


def test_processes_that_do_not_come_are_not_waited_for_beyond_the_limit() -> None:
    few = {"DPDM_TIMEOUT": "1", "WORLD_SIZE": "3"}
    for found in launch(2, in_processes, exchanges, environment=few):
        assert isinstance(found, ResourceError)
        assert "do not find each other" in found.message


def test_one_of_several_that_is_not_told_of_the_others_does_not_work_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with (
        pytest.raises(UsageError, match="WORLD_SIZE says 4 processes, but MASTER_ADDR"),
        joined(CPU),
    ):
        pass


def test_what_works_in_one_process_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    launched.require_one_process("this")
    monkeypatch.setenv("RANK", "1")
    assert launched.rank() == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launched.rank() == 1
    with pytest.raises(UsageError, match="this works in one process"):
        launched.require_one_process("this")


def join_for(tasks: list[str]) -> None:
    with joined(CPU, tasks[launched.rank()]):
        pass


def test_processes_of_two_commands_do_not_work_together() -> None:
    for found in launch(2, join_for, ["train", "sample"]):
        assert isinstance(found, ResourceError)
        assert found.message == "the command of process 1 of 2 differ from those of process 0"


def join_with(codes: list[str]) -> None:
    rendezvous._code = lambda: codes[launched.rank()]
    with joined(CPU):
        pass


def test_processes_of_other_code_do_not_work_together() -> None:
    for found in launch(3, join_with, ["a", "a", "b"]):
        assert isinstance(found, ResourceError)
        assert "the code of dpdm of process 2 of 3 differ" in found.message
        assert "install the same" in found.hint
    assert launch(2, join_with, ["a", "a"]) == [None, None]


def test_the_code_of_a_package_is_all_its_files() -> None:
    assert rendezvous._code() == rendezvous._code()
    assert len(rendezvous._code()) == 64
