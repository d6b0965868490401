"""How this process was started: its command, and the variables that torchrun sets. Imports no torch."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from dpdm_cli.errors import UsageError


def are_several() -> bool:
    """Whether this process was started as one of several. Raises UsageError: what should say so is no number."""
    return _number("WORLD_SIZE", 1) > 1


def rank() -> int:
    """Number of this process among those of the run; 0 is the one that reads, writes and speaks for all."""
    return _number("RANK", 0) if are_several() else 0


def local_rank() -> int:
    """Number of this process on its machine, which is that of its device."""
    return _number("LOCAL_RANK", 0)


def _number(variable: str, otherwise: int) -> int:
    text = os.environ.get(variable) or str(otherwise)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(
            f"{variable} is {text[:80]!r}, expected a number of processes or of one",
            f"start several processes with torchrun, or unset {variable}",
        )
    return int(text)


def require_one_process(command: str) -> None:
    """Raise `UsageError` when this process was started as one of several."""
    if are_several():
        raise UsageError(f"{command} works in one process", "start it without torchrun")


def command_line() -> str | None:
    """The `dpdm` command of this process, to be pasted into a shell; None when another program called the library."""
    program = Path(sys.argv[0])
    if program.parts[-2:] == ("dpdm_cli", "__main__.py"):
        start = "torchrun ... -m dpdm_cli" if are_several() else "python -m dpdm_cli"
    elif program.stem == "dpdm":
        start = "dpdm"
    else:
        return None
    return f"{start} {shlex.join(sys.argv[1:])}"
