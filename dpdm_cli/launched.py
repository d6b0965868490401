"""How this process was started, by the variables that torchrun sets. Imports no torch."""

from __future__ import annotations

import os

from dpdm_cli.errors import UsageError


def are_several() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


def rank() -> int:
    """Number of this process among those of the run; 0 is the one that reads, writes and speaks for all."""
    return int(os.environ.get("RANK") or 0) if are_several() else 0


def local_rank() -> int:
    """Number of this process on its machine, which is that of its device."""
    return int(os.environ.get("LOCAL_RANK") or 0)


def require_one_process(command: str) -> None:
    """Raise `UsageError` when this process was started as one of several."""
    if are_several():
        raise UsageError(f"{command} works in one process", "start it without torchrun")
