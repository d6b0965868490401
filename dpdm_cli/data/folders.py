"""A folder on disk as a tree of entries. Judges no name and decodes nothing."""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import Path

from dpdm_cli.data.layout import Entry, Parts, Tree
from dpdm_cli.errors import DataError

MAX_FILE_BYTES = 256 * 1024**2
_MAX_DEPTH = 6


def read_folder(folder: Path) -> Tree:
    """Everything below a folder; links to files and folders are followed, up to six levels deep.

    Raises:
        DataError: a folder cannot be listed.
    """
    entries: list[Entry] = []
    folders: set[Parts] = set()
    pending: list[Parts] = [()]
    while pending:
        parent = pending.pop()
        try:
            with os.scandir(folder.joinpath(*parent)) as children:
                for child in children:
                    path = (*parent, child.name)
                    if not child.is_dir():
                        entries.append(Entry(path, partial(_read, Path(child.path))))
                        continue
                    folders.add(path)
                    # A linked folder may lead back to where it lies.
                    if len(path) < _MAX_DEPTH and not child.name.startswith("."):
                        pending.append(path)
        except OSError as error:
            where = folder.joinpath(*parent)
            raise DataError(
                f"cannot list {where}: {error.strerror or error}",
                "Check the path and its permissions.",
            ) from None
    return Tree(str(folder), entries, frozenset(folders))


def file_entry(folder: Path, name: str) -> Entry:
    """A file directly in `folder`."""
    return Entry((name,), partial(_read, folder / name))


def _read(path: Path) -> bytes:
    facts = path.stat()
    # Opening a pipe or a device could wait for ever.
    if not stat.S_ISREG(facts.st_mode):
        raise OSError("is no regular file")
    if facts.st_size > MAX_FILE_BYTES:
        raise OSError(f"has {facts.st_size:,} bytes, more than {MAX_FILE_BYTES:,}")
    return path.read_bytes()
