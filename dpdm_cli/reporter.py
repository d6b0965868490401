"""How a run reports: a protocol that the shell implements. Knows nothing of terminals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """One running task of known length."""

    def advance(self, count: int = 1, **fields: str) -> None:
        """Add `count` units of work; `fields` are shown beside the bar, already formatted."""


class Reporter(Protocol):
    """Where a run's remarks and progress go.

    Attributes:
        quiet: whether nobody hears notes, so that what they cost can be saved.
    """

    quiet: bool

    def note(self, text: str) -> None:
        """One remark a user wants to see."""

    def detail(self, text: str) -> None:
        """One remark for a user who asked for more."""

    def warn(self, text: str) -> None:
        """One remark a user must see."""

    def progress(
        self, title: str, total: int, unit: str, done: int = 0
    ) -> AbstractContextManager[Progress]:
        """A task of `total` units, `done` of them already finished (a resumed run)."""


class SilentProgress:
    """A task that shows nothing."""

    def advance(self, count: int = 1, **fields: str) -> None:
        """Nothing to show."""


class SilentReporter:
    """The default reporter of the Python API: shows nothing."""

    quiet = True

    def note(self, text: str) -> None:
        """Nothing to show."""

    def detail(self, text: str) -> None:
        """Nothing to show."""

    def warn(self, text: str) -> None:
        """Nothing to show."""

    @contextmanager
    def progress(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
        """Nothing to show."""
        yield SilentProgress()
