"""The processes that make one run together, as torchrun starts them. One process alone is the special case.

Knows torch.distributed; nothing of privacy, images or files. No process gets beyond a call of this module while another
has failed: each of them waits for all, and raises when one is gone or silent for longer than the time limit.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypedDict, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dpdm_cli import errors
from dpdm_cli.errors import DpdmError, InterruptedRunError, ResourceError, foreseen

T = TypeVar("T")

TIMEOUT_VARIABLE = "DPDM_TIMEOUT"
"""Seconds that a process waits for the others, in the environment."""

_FAILED = "dpdm/failed"
_WAIT_FOR_REASON = 3.0  # seconds; who fails says so before it goes


class Processes:
    """This process and those it works with. Every method is called by all of them, in the same order.

    Args:
        rank: of this process, from 0.
        size: how many there are.
        store: a store of torch.distributed, where a process that fails says why; None for one process alone.

    Raises, every method: ResourceError: another process has failed, is gone, or was silent for too long.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank = rank
        self.size = size
        self._store = store

    @property
    def is_first(self) -> bool:
        """Whether this is the process that reads, writes and prints."""
        return self.rank == 0

    def scatter_indices(self, draw: Callable[[], Tensor]) -> Tensor:
        """What the first process draws, an int64 [n], shared out by position: this process's part, [n / size]."""
        if self._store is None:
            return draw()
        drawn = draw() if self.is_first else torch.empty(0, dtype=torch.int64)
        count = torch.tensor([len(drawn)])
        self._call(dist.broadcast, count, 0)
        drawn = drawn.cpu() if self.is_first else torch.empty(int(count), dtype=torch.int64)
        self._call(dist.broadcast, drawn, 0)
        return torch.tensor_split(drawn, self.size)[self.rank]

    def span(self, count: int) -> range:
        """This process's part of the indices below `count`."""
        return range(
            count * self.rank // self.size,
            count * (self.rank + 1) // self.size,
        )

    def reduce_scatter(self, total: Tensor) -> Tensor:
        """This process's part of the sum of all processes' `total` [P]: [P / size, rounded up], zeros beyond P.

        Each process is handed its coordinates of every `total` and adds them up, in the order of rank and in the dtype
        they have. So the whole sum is never in one place, and its rounding is that of one process.
        """
        if self._store is None:
            return total
        self._agree_before(total)
        each = math.ceil(len(total) / self.size)
        padded = total.new_zeros(each * self.size)
        padded[: len(total)] = total
        received = torch.empty_like(padded)
        self._call(dist.all_to_all_single, received, padded)
        return received.view(self.size, each).sum(0)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, of one shape, in the order of rank: [size, *shape]."""
        if self._store is None:
            return tensor[None]
        self._agree_before(tensor)
        stacked = tensor.new_empty(self.size, *tensor.shape)
        self._call(dist.all_gather, list(stacked), tensor.contiguous())
        return stacked

    def _agree_before(self, tensor: Tensor) -> None:
        """NCCL learns late, and in words of its own, that a process is gone: let gloo find that out first."""
        if tensor.is_cuda:
            self.all_reduce_max(0)

    def gather(self, tensor: Tensor) -> Tensor | None:
        """As `all_gather`, on the CPU, in the first process alone; None in the others, which may be ahead of it."""
        if self._store is None:
            return tensor[None]
        if not self.is_first:
            self._call(dist.gather, tensor.contiguous())
            return None
        stacked = torch.empty(self.size, *tensor.shape, dtype=tensor.dtype)
        self._call(dist.gather, tensor.contiguous(), list(stacked))
        return stacked

    def scatter(self, tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """This process's row, of this shape and on the CPU, of the first one's tensor [size, *shape]."""
        if self._store is None:
            assert tensor is not None
            return tensor[0]
        mine = torch.empty(shape, dtype=dtype)
        rows = [] if tensor is None else [row.contiguous() for row in tensor]
        self._call(dist.scatter, mine, rows if self.is_first else None)
        return mine

    def all_reduce_max(self, *numbers: int) -> list[int]:
        """For each place the largest of the numbers that the processes give."""
        if self._store is None:
            return list(numbers)
        agreed = torch.tensor(numbers)
        self._call(dist.all_reduce, agreed, dist.ReduceOp.MAX)
        return agreed.tolist()

    def broadcast(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, where alone it is called; it must fit into JSON.

        Raises:
            what `make` raises, everywhere.
        """
        if self._store is None:
            return make()
        answer: dict[str, object] = {}
        failure: Exception | None = None
        if self.is_first:
            try:
                answer = {"value": make()}
            except Exception as error:
                failure, answer = error, {"error": _described(error)}
        content = json.dumps(answer).encode()
        with _then_raise(failure):
            told = json.loads(self._broadcast_bytes(content))
            self.all_reduce_max(0)  # the first does not go on before the others have it
        if "error" in told:
            raise _error(told["error"], 0)
        return told["value"]  # type: ignore[no-any-return]

    def broadcast_tensors(
        self, read: Callable[[], tuple[dict[str, Tensor], T]]
    ) -> tuple[dict[str, Tensor], T]:
        """As `broadcast`, with tensors by name, which arrive on the CPU."""
        if self._store is None:
            return read()
        tensors: dict[str, Tensor] = {}

        def described() -> tuple[dict[str, tuple[str, list[int]]], T]:
            nonlocal tensors
            tensors, facts = read()
            return {k: (str(v.dtype)[6:], list(v.shape)) for k, v in tensors.items()}, facts

        shapes, facts = self.broadcast(described)
        for name, (dtype, shape) in shapes.items():
            tensor = (
                tensors[name].contiguous()
                if self.is_first
                else torch.empty(shape, dtype=getattr(torch, dtype))
            )
            self._call(dist.broadcast, tensor, 0)
            tensors[name] = tensor
        return tensors, facts

    @contextmanager
    def together(self) -> Iterator[None]:
        """All processes leave the block, or none does: what one raises in it, all raise.

        In the block no method of this class may be called: who fails would not come to the call that others are in.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            if self._store is None or getattr(error, "is_of_others", False):
                raise
            failure = error
        if self._store is None:
            return
        mine = b"" if failure is None else json.dumps(_described(failure)).encode()
        with _then_raise(failure):
            reports = self._exchange(mine)
        for rank, report in enumerate(reports):
            if report:
                raise _error(json.loads(report), rank)

    def check_same(self, digest: str, what: str, hint: str) -> None:
        """Compare a digest over all processes.

        Raises:
            ResourceError: `what` is not the same in all of them.
        """
        if self._store is None:
            return
        told = self._exchange(digest.encode())
        odd = [rank for rank, other in enumerate(told) if other != told[0]]
        if odd:
            raise ResourceError(
                f"{what} of process {odd[0]} of {self.size} differ from those of process 0", hint
            )

    def _broadcast_bytes(self, content: bytes) -> bytes:
        length = torch.tensor([len(content)])
        self._call(dist.broadcast, length, 0)
        data = (
            torch.frombuffer(bytearray(content), dtype=torch.uint8)
            if self.is_first
            else torch.empty(int(length), dtype=torch.uint8)
        )
        self._call(dist.broadcast, data, 0)
        return data.numpy().tobytes()

    def _exchange(self, content: bytes) -> list[bytes]:
        lengths = self.all_gather(torch.tensor(len(content))).tolist()
        padded = torch.zeros(max(1, *lengths), dtype=torch.uint8)
        padded[: len(content)] = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)[
            : len(content)
        ]
        rows = self.all_gather(padded)
        return [row.numpy().tobytes()[:n] for row, n in zip(rows, lengths, strict=True)]

    def _call(self, operation: Callable[..., Any], *args: Any) -> None:
        try:
            operation(*args)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> DpdmError:
        """Why the others do not answer: what the first of them that failed has said, or else what the network says."""
        until = time.monotonic() + _WAIT_FOR_REASON
        said: list[tuple[_Failure, int]] = []

        def ask() -> None:
            while not self._store.check([_FAILED]) and time.monotonic() < until:
                time.sleep(0.05)
            if self._store.check([_FAILED]):
                told = json.loads(self._store.get(_FAILED))
                said.append((told["error"], told["rank"]))

        _in_time(ask)
        if said:
            lost = _error(*said[0])
        else:
            first_line = (str(error).splitlines() or [repr(error)])[0]
            lost = ResourceError(
                f"process {self.rank} of {self.size} has lost another one: {first_line}",
                "look for that one's own message; a killed process has none. What was saved is whole: repeat the "
                f"command, dpdm train with --resume. {TIMEOUT_VARIABLE}=3600 waits an hour for one that is slow",
            )
        lost.is_of_others = True
        return lost

    def tell_failure(self, error: BaseException) -> None:
        """Leave word of why this process fails, unless another has done so."""
        if self._store is not None and not getattr(error, "is_of_others", False):
            word = json.dumps({"rank": self.rank, "error": _described(error)})
            _in_time(lambda: self._store.compare_set(_FAILED, "", word))


ALONE = Processes()


@contextmanager
def _then_raise(failure: Exception | None) -> Iterator[None]:
    """The others are told in the block; then this process raises its own failure, also when one of them is gone."""
    try:
        yield
    except DpdmError:
        if failure is None:
            raise
        raise failure from None
    if failure is not None:
        raise failure


def _in_time(act: Callable[[], object]) -> None:
    """Try something with the store, which waits without limit for a machine that is cut off: not for long."""

    def tried() -> None:
        with suppress(Exception):
            act()

    thread = threading.Thread(target=tried, daemon=True)
    thread.start()
    thread.join(2 * _WAIT_FOR_REASON)


class _Failure(TypedDict):
    """An error as the other processes are told of it."""

    kind: str
    message: str
    hint: str
    exit_code: int


def _described(error: BaseException) -> _Failure:
    known = foreseen(error) or ResourceError(
        f"{type(error).__name__}: {error}", "see its traceback"
    )
    return {
        "kind": type(known).__name__,
        "message": known.message,
        "hint": known.hint,
        "exit_code": known.exit_code,
    }


def _error(told: _Failure, rank: int) -> DpdmError:
    """An error of another process, to be raised in this one."""
    if told["kind"] == "InterruptedRunError":
        again: DpdmError = InterruptedRunError(
            told["message"], told["hint"], told["exit_code"] - 128
        )
    else:
        kind = getattr(errors, told["kind"], ResourceError)
        again = kind(f"process {rank}: {told['message']}", told["hint"])
    again.is_of_others = True
    return again
