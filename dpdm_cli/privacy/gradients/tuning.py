"""How many examples to differentiate at a time, and by which kernels: measured on rows that hold no data.

Nothing private decides: not the images, not how many there are, and no batch ever runs out of memory to find out. The
choice changes speed and memory, never the mechanism.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dpdm_cli.compute.threads import parallel_map
from dpdm_cli.privacy.gradients import convolution
from dpdm_cli.privacy.gradients.per_example import Losses, PerExampleGradients

_PROBED_ROWS = 32  # when kernels are compared
_FIRST_ROWS = 64  # fewest rows tried as a micro-batch, where it may have as many
_LONGEST = 1.0  # seconds after which no larger micro-batch is tried
_WORTHWHILE = 0.97  # a larger one must take less than this share of the time for an example
_CPU_BYTES = 192 << 20  # of gradients, for each worker
_GPU_SHARE = 0.6  # of the free memory


@dataclass(frozen=True)
class Tuning:
    """What was chosen.

    Attributes:
        micro_batch: examples at a time.
        seconds: time for one example, all workers at work.
        kernels: how many shapes of convolutions go by which kernel.
    """

    micro_batch: int
    seconds: float
    kernels: dict[str, int]

    def __str__(self) -> str:
        kernels = ", ".join(f"{name} {count}" for name, count in sorted(self.kernels.items()))
        return (
            f"micro-batch {self.micro_batch}, {1e3 * self.seconds:.2f} ms an image; "
            f"weight gradients of convolutions by {kernels or 'none'}"
        )


def _unwatched() -> None:
    """Nobody waits for it."""


def tune(
    per_example: PerExampleGradients,
    losses: Losses,
    *,
    copies: int,
    workers: int,
    most: int,
    progress: Callable[[], object] = _unwatched,
) -> Tuning:
    """Find the fastest kernels and micro-batch for a network on its device.

    Args:
        per_example: of the network.
        losses: of made-up examples of the right shapes, whatever their indices.
        copies: rows an example.
        workers: micro-batches side by side.
        most: the largest micro-batch worth trying, a public number.
        progress: called when a kernel has been chosen for a call of a convolution, by the worker that made it.
    """
    device = per_example.parameters[0].device
    if device.type == "cpu":
        most = min(most, _CPU_BYTES // (4 * per_example.size))
    most = max(1, most)
    sizes = [most]
    while sizes[0] // 2 * copies >= _FIRST_ROWS:
        sizes.insert(0, sizes[0] // 2)

    def choose(_: int) -> None:
        size = min(sizes[0], max(1, _PROBED_ROWS // copies))
        with convolution.probing(progress):
            per_example(losses, torch.arange(size, device=device))

    before = convolution.choices()
    list(parallel_map(choose, range(workers), workers))
    kernels = Counter(
        kernel for shape, kernel in convolution.choices().items() if shape not in before
    )
    best, best_seconds = sizes[0], float("inf")
    started = time.monotonic()
    for size in sizes:
        seconds = _seconds(per_example, losses, size, workers)
        if seconds > _WORTHWHILE * best_seconds:
            break
        best, best_seconds = size, seconds
        if time.monotonic() - started > _LONGEST or not _has_room(2 * size + 1, size, device):
            break
    return Tuning(best, best_seconds, dict(kernels))


def _seconds(per_example: PerExampleGradients, losses: Losses, size: int, workers: int) -> float:
    """Time for one example when every worker differentiates `size` of them."""
    memory = [per_example.buffer(size) for _ in range(workers)]
    indices = torch.arange(size, device=memory[0].device)

    def one(worker: int) -> None:
        per_example(losses, indices, out=memory[worker])

    def all_of_them() -> float:
        start = time.perf_counter()
        list(parallel_map(one, range(workers), workers))
        if memory[0].device.type == "cuda":
            torch.cuda.synchronize(memory[0].device)
        return time.perf_counter() - start

    if memory[0].device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(memory[0].device)
    all_of_them()  # sets up what these shapes need
    return all_of_them() / (size * workers)


def _has_room(size: int, measured: int, device: torch.device) -> bool:
    """Whether a micro-batch of that size is sure to fit on a GPU, by what one of the `measured` size took."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    taken = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
    return taken / measured * size <= _GPU_SHARE * free
