"""What can go wrong, whose fault it is, and what to do about it.

Every error a user can cause is a `DpdmError`: a message that names what was expected and what was found,
a hint that names the next thing to do, and the exit code of the process.
"""

from __future__ import annotations

import errno
import os

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "std::bad_alloc")
_NO_PATH = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
_LONGEST_PATH = 200  # characters of one in a message


class DpdmError(Exception):
    """Base of all errors that are shown without a traceback.

    Args:
        message: what went wrong, where, with the offending value.
        hint: what to do next; shown on its own line.

    Attributes:
        is_of_others: whether another process raised and reported it first.
    """

    exit_code = 1
    is_of_others = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DpdmError):
    """Options that do not make sense, alone or together."""

    exit_code = 2


class DataError(DpdmError):
    """Images, labels or archives that cannot be used as they are."""

    exit_code = 3


class DamagedFileError(DpdmError):
    """A checkpoint, plan or run folder that is not what was written."""

    exit_code = 4


class PrivacyError(DpdmError):
    """A request that would make the privacy claim false; refused."""

    exit_code = 5


class ResourceError(DpdmError):
    """Memory, disk, network or weights that are not available."""

    exit_code = 6


class InterruptedRunError(DpdmError):
    """The run was asked to stop and has saved its state.

    Args:
        signal_number: the signal received; the exit code is 128 plus it.
    """

    def __init__(self, message: str, hint: str, signal_number: int) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signal_number


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory; torch says so by a RuntimeError."""
    if isinstance(error, RuntimeError) and type(error).__name__ != "OutOfMemoryError":
        return any(words in str(error) for words in _NO_MEMORY)
    return isinstance(error, MemoryError | RuntimeError)


def foreseen(error: BaseException) -> DpdmError | None:
    """What Python and its libraries say of memory, disks, paths, texts and numbers, as an error of ours.

    The one place that does so for whatever no other place knew more of.

    Returns:
        None for anything else, which is a bug.
    """
    if isinstance(error, DpdmError):
        return error
    if is_out_of_memory(error):
        return ResourceError(
            "out of memory", "stop other programs, ask for less at a time, or use a larger machine"
        )
    if isinstance(error, OSError):
        return _of_the_system(error)
    if isinstance(error, RecursionError):
        return DamagedFileError("a file is nested too deeply", "take the file as it was written")
    if isinstance(error, UnicodeError):
        return DataError(
            f"a name or a text is not in UTF-8: {error}", "rename it, or write it anew"
        )
    if isinstance(error, ArithmeticError):
        return UsageError(
            f"a number is too large or too small to compute with: {error}",
            "give numbers of an ordinary size",
        )
    return None


def _of_the_system(error: OSError) -> DpdmError:
    path = "" if error.filename is None else os.fsdecode(error.filename)
    shown = path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}…"
    message = ": ".join(filter(None, [shown, error.strerror or str(error)]))
    if error.errno in _NO_PATH:
        return DataError(message, "check the path")
    return ResourceError(message, "free space, check permissions, or choose another place")
