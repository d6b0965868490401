"""`python -m dpdm_cli`, the same as the command `dpdm`."""

from __future__ import annotations

import atexit
import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class _Stream(io.TextIOWrapper):
    """A standard stream whose reader may go before all is written, as in `dpdm ... | head`.

    Output that nobody reads ends the command, quietly and with the exit code of a process that SIGPIPE ended. Remarks
    that nobody reads end nothing: a run may hang on them.
    """

    @classmethod
    def like(cls, stream: io.TextIOWrapper) -> _Stream:
        """One that writes where another does, and shows by its number what its encoding does not have."""
        return cls(
            os.fdopen(stream.fileno(), "wb", closefd=False),
            stream.encoding,
            "backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )

    def write(self, text: str) -> int:
        with self._reader_may_be_gone():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._reader_may_be_gone():
            super().flush()

    @contextmanager
    def _reader_may_be_gone(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            _write_nowhere(self.fileno())
            if self is sys.stdout:
                raise SystemExit(128 + signal.SIGPIPE) from None


def main() -> None:
    """Run the command line."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries tell those who program with them
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name in ("stdout", "stderr"):
        given = getattr(sys, name)
        setattr(sys, name, _Stream.like(given) if given else open(os.devnull, "w"))  # noqa: SIM115
    from dpdm_cli.commands.app import app
    from dpdm_cli.commands.console import errors_reported

    try:
        with errors_reported():
            try:
                app()
            finally:
                _flush()
    except SystemExit as ended:
        # Also where it is no number, which was this command's message then.
        if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
            _end_without_destructors(ended)
        raise


def _flush() -> None:
    """Write what waits, and leave nothing that fails once more when Python ends."""
    try:
        sys.stdout.flush()
    except OSError:
        _write_nowhere(sys.stdout.fileno())
        raise


def _end_without_destructors(ended: SystemExit) -> None:
    """End this process, one of several, as Python would, but for the destructors of C++.

    There a thread that torch keeps for the other processes may still stand, and abort one that has done all its work
    (torch's issue 190489); torchrun takes the whole run for failed then.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(ended.code if isinstance(ended.code, int) else int(ended.code is not None))


def _write_nowhere(stream: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


if __name__ == "__main__":
    main()
