"""`python -m dpdm_cli`, the same as the command `dpdm`."""

from __future__ import annotations

import os
import sys
import warnings


def main() -> None:
    """Run the command line."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries tell those who program with them
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        # What its encoding does not have is shown by its number.
        getattr(sys, name).reconfigure(errors="backslashreplace")
    from dpdm_cli.commands.app import app
    from dpdm_cli.commands.console import errors_reported

    with errors_reported():
        try:
            app()
        finally:
            _flush()


def _flush() -> None:
    """Write what waits, and leave nothing that fails once more when Python ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


if __name__ == "__main__":
    main()
