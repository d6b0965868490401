"""Where a prepared file is to be, and what may be there already."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from dpdm_cli.data.named import NAMED
from dpdm_cli.data.prepare.holding_out import HoldOut
from dpdm_cli.data.prepare.prepared import SUFFIX, PreparedFile
from dpdm_cli.data.prepare.unfinished import forget
from dpdm_cli.errors import DataError, UsageError
from dpdm_cli.files import expanded
from dpdm_cli.reporter import Reporter
from dpdm_cli.stored import Json

ANOTHER = "choose another OUT, or take this file away"


def check_places(source: str | Path, path: Path) -> None:
    """Refuse a source that needs no preparing, and an OUT that is no place for it.

    Raises:
        UsageError: naming the one or the other.
    """
    if path.suffix.lower() != SUFFIX:
        raise UsageError(f"OUT must end in {SUFFIX}, found {path}", f"for example {path}{SUFFIX}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder", "name a file that is to be made")
    origin = expanded(source)
    if str(source) in NAMED:
        return
    if origin.suffix.lower() == SUFFIX and origin.is_file():
        raise UsageError(f"{source} is not a folder, zip or .npz file", "A prepared file is ready.")
    if origin.is_dir() and path.resolve().is_relative_to(origin.resolve()):
        raise UsageError(f"{path} is in the folder {source} itself", "choose OUT outside it")


def complete_file(path: Path) -> PreparedFile:
    """What is at the place of the result. Raises UsageError: something else than a prepared file."""
    try:
        return PreparedFile(path)
    except DataError as error:
        raise UsageError(f"nothing is overwritten: {error.message}", ANOTHER) from None


def check_complete(file: PreparedFile, request: Json, skip_bad: bool, reporter: Reporter) -> None:
    """Keep what is there, if it is what this command would make.

    Args:
        file: at the place of the result.
        request: what is to be made, by the names of `Facts`.
        skip_bad: whether files may have been left out.
        reporter: gets a remark.

    Raises:
        UsageError: it is something else.
        DamagedFileError: it is not what was written.
    """
    facts = file.facts
    for name, wanted in request.items():
        found = getattr(facts, name)
        if isinstance(found, HoldOut):
            found = asdict(found)
        if (list(found) if isinstance(found, tuple) else found) != wanted:
            what = f"{name} is {str(found)[:80]} there, {str(wanted)[:80]} now"
            if name == "source_sha256":
                what = "its source was another, or has changed since"
            raise UsageError(f"{file.path} holds other images: {what}", ANOTHER)
    if facts.bad and not skip_bad:
        raise UsageError(
            f"{file.path} was made with --skip-bad, which left out {facts.bad:,} of the files",
            "repeat the command with --skip-bad, or choose another OUT",
        )
    reporter.note(f"{file.path} is complete; comparing it with its SHA-256")
    file.verify()
    forget(file.path)
