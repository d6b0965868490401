"""A folder on disk as a tree of entries. Checks no name and decodes nothing."""

from __future__ import annotations

import errno
import os
import stat
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
    files = Files(folder)
    entries: list[Entry] = []
    folders: set[Parts] = set()
    pending: list[Parts] = [()]
    while pending:
        parent = pending.pop()
        try:
            with os.scandir(folder.joinpath(*parent)) as children:
                for child in children:
                    if not _is_folder(child):
                        entries.append(Entry(parent, child.name, files))
                        continue
                    path = (*parent, child.name)
                    folders.add(path)
                    # A linked folder may lead back to the folder that holds it.
                    if len(path) < _MAX_DEPTH and not child.name.startswith("."):
                        pending.append(path)
        except OSError as error:
            where = folder.joinpath(*parent)
            raise DataError(
                f"cannot list {where}: {error.strerror or error}",
                "Check the path and its permissions.",
            ) from None
    return Tree(str(folder), entries, frozenset(folders))


def _is_folder(child: os.DirEntry[str]) -> bool:
    """Whether there is something below; a link to itself is a file that cannot be read."""
    try:
        return child.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


class Files:
    """The files below a folder.

    Args:
        folder: the root of their paths.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def read(self, entry: Entry) -> bytes:
        """The whole file.

        Raises:
            OSError: it cannot be read, is not a regular file, or is larger than any image.
        """
        path = self._path(entry)
        facts = os.stat(path)
        # Opening a pipe or a device could wait for ever.
        if not stat.S_ISREG(facts.st_mode):
            raise OSError("is not a regular file")
        if facts.st_size > MAX_FILE_BYTES:
            raise OSError(f"has {facts.st_size:,} bytes, more than {MAX_FILE_BYTES:,}")
        with open(path, "rb", buffering=0) as file:
            return file.read()

    def facts(self, entry: Entry) -> str:
        """Size and time of the last change; nothing for a file that is not there."""
        try:
            facts = os.stat(self._path(entry))
        except OSError:
            return ""
        return f"{facts.st_size} {facts.st_mtime_ns}"

    def _path(self, entry: Entry) -> str:
        return os.path.join(self._folder, *entry.folder, entry.name)
