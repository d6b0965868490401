"""What can go wrong, whose fault it is, and what to do about it.

Every error a user can cause is a `DpdmError`: a message that names what was expected and what was found,
a hint that names the next thing to do, and the exit code of the process.
"""

from __future__ import annotations


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
