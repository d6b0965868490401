"""Files that are whole or absent: written beside the target, synced, then moved over it."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dpdm_cli.errors import ResourceError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it replaces `path`, on failure it is removed.

    Raises:
        ResourceError: the disk is full or the place cannot be written; `path` keeps its old content.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
            errno.EIO,
            errno.EACCES,
            errno.EROFS,
        ):
            raise ResourceError(
                f"{path}: cannot write: {error.strerror}",
                "free space or choose another place; what was there before is unchanged",
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a whole file or none; `private` files are readable by their owner alone."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        if private:
            temporary.chmod(0o600)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_left_over(file: Path) -> bool:
    """Whether this is a file that a killed process was writing."""
    return file.name.startswith(".") and file.name.endswith(".part") and file.is_file()


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows has no handle for a folder
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
