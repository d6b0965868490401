"""The one place that writes to the screen.

The result of a command goes to stdout (a table for people, one JSON object with `--json`); everything else
(remarks, warnings, progress, errors) goes to stderr. Of several processes that torchrun started the first prints for
all; the others print only errors, with their number.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, ParamSpec

import rich.box
import rich.console
import rich.progress
import rich.table
from rich.markup import escape
from rich.segment import Segment

from dpdm_cli.compute.launched import are_several, rank
from dpdm_cli.errors import DpdmError, InterruptedRunError, UsageError, foreseen
from dpdm_cli.reporter import Progress
from dpdm_cli.signals import Stopped, stops

P = ParamSpec("P")

SECONDS_BETWEEN_LINES = 5.0


class Screen(rich.console.Console):
    """A console that shows text as it is: no control characters, no emoji for their names, no colours for words."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, **options)

    def render(
        self,
        renderable: rich.console.RenderableType,
        options: rich.console.ConsoleOptions | None = None,
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=shown(segment.text))


def shown(text: str) -> str:
    """A text that steers no terminal, with escapes for what is neither printable nor the end of a line."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


class BarProgress:
    """A Rich task."""

    def __init__(self, bars: rich.progress.Progress, task: rich.progress.TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, count: int = 1, **fields: object) -> None:
        details = "  ".join(f"{name} {value}" for name, value in fields.items())
        self._bars.update(self._task, advance=count, details=details)


class LineProgress:
    """A plain line every few seconds, for logs and pipes."""

    def __init__(self, console: Console, title: str, total: int, unit: str, done: int) -> None:
        self._console, self._title, self._unit = console, title, unit
        self._total, self._done, self._first = total, done, done
        self._start = self._last = time.monotonic()

    def advance(self, count: int = 1, **fields: object) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES and self._done < self._total:
            return
        self._last = now
        rate = (self._done - self._first) / max(now - self._start, 1e-9)
        left = (self._total - self._done) / rate if rate > 0 else float("inf")
        details = "".join(f", {name} {value}" for name, value in fields.items())
        self._console.note(
            f"{self._title}: {self._done}/{self._total} {self._unit}{details}, {left:.0f} s left"
        )


class Console:
    """Output of one command in one of three modes: human (more or less verbose), json, quiet.

    Implements `dpdm_cli.reporter.Reporter`.

    Attributes:
        speaks: whether this process prints.
    """

    def __init__(
        self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False
    ) -> None:
        try:
            self.speaks = rank() == 0
        except UsageError:  # for whoever starts the processes
            self.speaks = True
        self.as_json = as_json
        self.quiet = quiet or not self.speaks
        self.verbose = verbose
        self.out = Screen()
        self.err = Screen(stderr=True)

    def note(self, text: str) -> None:
        if not self.quiet:
            self._say(text)

    def detail(self, text: str) -> None:
        if self.verbose:
            self.note(text)

    def warn(self, text: str) -> None:
        if self.speaks:
            self._say(text, heading="warning:", style="yellow")

    def error(self, error: DpdmError) -> None:
        who = ""
        if isinstance(error, (UsageError, InterruptedRunError)):
            if not self.speaks:
                return  # the same in all processes
        elif are_several() and not getattr(error, "is_of_others", False):
            who = f"process {rank()}: "
        self._say(who + error.message, heading="error:", style="red")
        if error.hint:
            self._say(f"  {error.hint}")

    def _say(self, text: str, heading: str = "", style: str = "none") -> None:
        """One line of a log; on a terminal as many as it takes, none of which ends within a word."""
        text = f"{heading} {text}" if heading else text
        if self.err.is_terminal:
            indent = " " * (len(text) - len(text.lstrip()))
            text = "\n".join(
                textwrap.fill(
                    line,
                    self.err.width,
                    subsequent_indent=indent,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
                for line in text.split("\n")
            )
        said = escape(text.removeprefix(heading))
        self.err.print(f"[{style}]{heading}[/]{said}", soft_wrap=True)

    @contextmanager
    def progress(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
        if self.quiet:
            self_muted = Console(quiet=True)
            yield LineProgress(self_muted, title, total, unit, done)
        elif not self.err.is_terminal:
            yield LineProgress(self, title, total, unit, done)
        else:
            columns = (
                rich.progress.TextColumn("{task.description}", markup=False),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TextColumn(unit),
                rich.progress.TimeRemainingColumn(),
                rich.progress.TextColumn("{task.fields[details]}", markup=False),
            )
            with rich.progress.Progress(*columns, console=self.err) as bars:
                task = bars.add_task(title, total=total, completed=done, details="")
                yield BarProgress(bars, task)

    def result(
        self, values: Mapping[str, object], human: Callable[[], object] | None = None
    ) -> None:
        """Print a command's result: `values` as one JSON object, or what `human` returns.

        `human` gives a Rich renderable or a string; without it, a two-column table of `values`.
        """
        if not self.speaks:
            return
        if self.as_json:
            sys.stdout.write(json.dumps(values, indent=2, allow_nan=False) + "\n")
        elif not self.quiet:
            self.out.print(human() if human else pairs_table(values))
        sys.stdout.flush()  # so that a full disk is found here


def pairs_table(values: Mapping[str, object], title: str | None = None) -> rich.table.Table:
    """Names on the left, values on the right."""
    table = rich.table.Table(
        title=title, box=rich.box.SIMPLE, show_header=False, title_justify="left"
    )
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(escape(str(name)), escape(str(value)))
    return table


@contextmanager
def errors_reported() -> Iterator[None]:
    """Turn what can go wrong into its message and exit code; anything else is a bug and keeps its traceback."""
    try:
        with stops():
            yield
    except Stopped as stop:
        _end(InterruptedRunError("stopped", "repeat the command", stop.signal_number))
    except Exception as error:
        known = foreseen(error)
        if known is None or os.environ.get("DPDM_DEBUG"):
            raise
        _end(known)


def _end(error: DpdmError) -> NoReturn:
    Console().error(error)
    raise SystemExit(error.exit_code)


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """A command within `errors_reported`."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        with errors_reported():
            command(*args, **kwargs)

    return guarded
