"""Where a run computes."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from dpdm_cli.compute.launched import are_several, local_rank
from dpdm_cli.errors import ResourceError, UsageError, is_out_of_memory


def resolve_device(name: str) -> torch.device:
    """The device of that name; `auto` takes CUDA or Apple's MPS if available, else the CPU.

    Raises:
        UsageError: not the name of a device.
        ResourceError: this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return _own("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = _own(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"unknown device {name!r}", "choose auto, cpu, cuda, cuda:1 or mps")
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if device.type == "cuda" and device.index is not None and name != "cuda" and are_several():
        raise UsageError(
            f"all processes would use the device {name!r}",
            "choose --device cuda: each takes its own",
        )
    if (device.index or 0) >= count.get(device.type, 1):
        raise ResourceError(
            f"this machine has no device {name!r}", "choose --device cpu, or auto to take the best"
        )
    return device


def _own(name: str) -> torch.device:
    """Of several processes on a machine each has a CUDA device of its own; one named by number is taken as it is."""
    return torch.device(f"cuda:{local_rank()}" if name == "cuda" and are_several() else name)


Module = TypeVar("Module", bound=nn.Module)

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def to_device(network: Module, device: torch.device) -> Module:
    """Move a network to the device, in the memory order its convolutions are fastest in there.

    On a CPU, memory that this process frees is from then on kept for its next allocation.
    """
    network.to(device)
    if device.type == "cpu":
        network.to(memory_format=torch.channels_last)
        _keep_freed_memory()
    return network


def _keep_freed_memory() -> None:
    """Tell glibc not to hand freed memory back to the system; other C libraries are left as they are.

    By default large tensors are mapped afresh for every operation, and the system clears them page by page.
    """
    if platform.libc_ver()[0] == "glibc":
        c_library = ctypes.CDLL(None)
        c_library.mallopt(_M_MMAP_MAX, 0)
        c_library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def set_precision(name: str, device: torch.device) -> None:
    """Choose how float32 products are computed on CUDA: `auto` and `tf32` round their factors to TF32.

    bf16 is not set here but by autocast around the forward pass. On other devices float32 is float32.

    Raises:
        UsageError: tf32 on a device that has none.
    """
    if name == "tf32" and device.type != "cuda":
        raise UsageError(
            f"precision tf32 is CUDA's, the device is {device}", "choose --precision float32"
        )
    torch.backends.cuda.matmul.allow_tf32 = name in ("auto", "tf32")
    torch.backends.cudnn.allow_tf32 = name in ("auto", "tf32")


@contextmanager
def memory_errors(when: str, hint: str) -> Iterator[None]:
    """Turn running out of memory into an error; nothing is tried again, above all not a batch that was drawn.

    Raises:
        ResourceError: out of memory `when`, with `hint`.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise ResourceError(f"out of memory {when}", hint) from error
        raise
