"""How the processes that torchrun started connect, and how they disconnect. Knows torch.distributed alone."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from dpdm_cli import __version__
from dpdm_cli.compute.distributed import ALONE, TIMEOUT_VARIABLE, Processes
from dpdm_cli.compute.launched import are_several
from dpdm_cli.errors import ResourceError, UsageError

_TIMEOUT = 600.0
_joins = itertools.count()


@contextmanager
def joined(device: torch.device, task: str = "") -> Iterator[Processes]:
    """Join the processes that torchrun started, or be alone when it did not.

    NCCL moves what is on CUDA devices, gloo everything else.

    Args:
        task: what they are to do together.

    Raises:
        ResourceError: they do not find each other in time, or are to do something else, or by other code.
        UsageError: this is one of several processes, but nothing says where the others are.
    """
    several = are_several()
    absent = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} - os.environ.keys()
    if absent:
        if several:
            raise UsageError(
                f"WORLD_SIZE says {os.environ['WORLD_SIZE']} processes, but {', '.join(sorted(absent))} is unset",
                "start them with torchrun, or unset WORLD_SIZE to work in one process",
            )
        yield ALONE
        return
    timeout = timedelta(seconds=_seconds())
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        store.set_timeout(timeout)
        # Addresses of a group that this process has left must not be taken for those of the next.
        store = dist.PrefixStore(f"dpdm/{next(_joins)}", store)  # type: ignore[attr-defined]
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
        dist.init_process_group(
            backend,
            store=store,
            rank=rank,
            world_size=size,
            timeout=timeout,
        )
    except (RuntimeError, ValueError) as error:
        raise ResourceError(
            f"the processes do not find each other: {(str(error).splitlines() or [''])[0]}",
            f"check that torchrun started all of them and that {os.environ['MASTER_ADDR']} can be reached",
        ) from error
    processes = Processes(rank, size, store)
    try:
        processes.check_same(task, "the command", "give every machine the same command")
        processes.check_same(
            _code(), "the version or the code of dpdm", "install the same dpdm on every machine"
        )
        yield processes
    except BaseException as error:
        processes.tell_failure(error)
        if device.type != "cuda":  # with NCCL this would wait for those that are gone
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _code() -> str:
    """The version, and SHA-256 of all that the package runs."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256(__version__.encode())
    for path in sorted((*root.rglob("*.py"), *root.rglob("*.toml"))):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _seconds() -> float:
    stated = os.environ.get(TIMEOUT_VARIABLE)
    try:
        seconds = float(stated) if stated else _TIMEOUT
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(
            f"{TIMEOUT_VARIABLE} is {stated!r}, expected seconds",
            f"unset it to wait {_TIMEOUT:g} s",
        )
    return seconds
