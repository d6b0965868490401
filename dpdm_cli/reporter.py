"""How a run reports: a protocol that the shell implements, and what callers from Python get. Knows nothing of
terminals.
"""

from __future__ import annotations

import importlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any, Protocol

_SECONDS_BETWEEN_UPDATES = 0.5


class DpdmWarning(UserWarning):
    """A remark that a caller from Python must see."""


class Progress(Protocol):
    """One running task of known length."""

    def advance(self, count: int = 1, **fields: object) -> None:
        """Add `count` units of work; `fields` are shown beside the bar, as `str` of them when they are."""


@dataclass(frozen=True)
class WhenShown:
    """A field that takes its time: worked out when it is shown, and not otherwise."""

    text: Callable[[], str]

    def __str__(self) -> str:
        return self.text()


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

    def advance(self, count: int = 1, **fields: object) -> None:
        """Nothing to show."""


class SilentReporter:
    """A reporter that shows nothing: that of all processes of a run but the first."""

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


class CallerReporter(SilentReporter):
    """The default of the Python API: warnings are Python's, and a notebook shows progress."""

    def warn(self, text: str) -> None:
        """A `DpdmWarning` at the line that called this package."""
        warnings.warn(text, DpdmWarning, stacklevel=_frames_of_ours())

    @contextmanager
    def progress(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
        """A bar below the cell of a notebook; elsewhere nothing."""
        if not in_notebook():
            yield SilentProgress()
            return
        bar = NotebookProgress(title, total, unit, done)
        try:
            yield bar
        finally:
            bar.show()


class NotebookProgress:
    """A task as a notebook shows it: one line and a bar, replaced as it goes on."""

    def __init__(self, title: str, total: int, unit: str, done: int) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done = self._first = done
        self._fields: dict[str, object] = {}
        self._start = time.monotonic()
        self._shown_at = -_SECONDS_BETWEEN_UPDATES
        self._handle: Any = None

    def advance(self, count: int = 1, **fields: object) -> None:
        """Add to what is done; what is shown follows twice a second."""
        self._done, self._fields = self._done + count, fields
        if time.monotonic() - self._shown_at >= _SECONDS_BETWEEN_UPDATES:
            self.show()

    def show(self) -> None:
        """Replace what is shown."""
        self._shown_at = time.monotonic()
        if self._handle is None:
            shell = importlib.import_module("IPython.display")  # there is one where this is used
            self._handle = shell.display(self, display_id=True)
        else:
            self._handle.update(self)

    def __repr__(self) -> str:
        taken = max(time.monotonic() - self._start, 1e-9)
        rate = (self._done - self._first) / taken
        details = "".join(f", {name} {value}" for name, value in self._fields.items())
        time_left = ""
        if self._done >= self._total:
            time_left = f", {taken:.0f} s"
        elif rate > 0:
            time_left = f", {(self._total - self._done) / rate:.0f} s left"
        return f"{self._title}: {self._done}/{self._total} {self._unit}{details}{time_left}"

    def _repr_html_(self) -> str:
        return (
            f'<progress value="{self._done}" max="{self._total}"></progress> {escape(repr(self))}'
        )


def heard(reporter: Reporter | None, *, is_first: bool = True) -> Reporter:
    """The reporter to use: the one given, the default without one, and nobody's in further processes."""
    if not is_first:
        return SilentReporter()
    return CallerReporter() if reporter is None else reporter


def in_notebook() -> bool:
    """Whether a kernel of Jupyter or the like runs this, and so shows what is displayed."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def _frames_of_ours() -> int:
    """`stacklevel` of a warning that `warn` gives: of the first frame outside of this package."""
    package = __name__.partition(".")[0]
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(package):
        frame, level = frame.f_back, level + 1
    return level
