"""Files that are whole or absent: written beside the target, synced, then moved over it. And files that are held.

Files that may be published hold what was written and nothing else, and no others lie beside them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from dpdm_cli.errors import DamagedFileError, ResourceError, UsageError

_TRIES = 10
_MOST_BYTES = 1 << 26
_OWN_FILE, _OWN_FOLDER = 0o600, 0o700
_COPY_AGAIN = "copy it again from where it was made, or make it anew"


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
        raise ResourceError(
            f"{path}: cannot write: {error.strerror or error}",
            "free space or choose another place; what was there before is unchanged",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a whole file or none; `private` files are readable by their owner alone."""
    with replacing(path) as temporary:
        if private:
            temporary.touch(_OWN_FILE, exist_ok=False)
        temporary.write_bytes(content)


def private_folder(path: Path) -> Path:
    """A folder for what is not to be published, which its owner alone can enter; made, or tightened, if need be.

    Raises:
        OSError: it cannot be made, or is open to others and of another owner.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(_OWN_FOLDER, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(_OWN_FOLDER)
    return path


def read_bytes(path: Path, most: int = _MOST_BYTES) -> bytes:
    """A whole file that somebody else may have written: never more of it than is expected.

    Raises:
        OSError: it cannot be read, or is larger.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"more than {most:,} bytes", str(path))
    return content


def expanded(path: Path | str) -> Path:
    """A path with the user's folder for `~`; where there is no such user, or no folder, as it is."""
    return Path(os.path.expanduser(path))


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_text(values: Mapping[str, Any]) -> bytes:
    """A JSON object as it is written for people and programs."""
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def parse_json(content: bytes) -> dict[str, Any]:
    """The JSON object that `json_text` wrote, in any order and with no more blanks.

    Raises:
        ValueError, RecursionError: it is none, names a key twice, or something stands beside it.
    """
    values = json.loads(content, object_pairs_hook=_without_repeats)
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    if len(content) > len(json_text(values)):
        raise ValueError("more than the JSON object in it")
    return values


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file that holds nothing beside it.

    Raises:
        DamagedFileError: there is no such file or no such object, see `parse_json`.
    """
    try:
        return parse_json(read_bytes(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path}: damaged: {error}", _COPY_AGAIN) from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return values


def check_digests(folder: Path, digests: Mapping[str, Any]) -> None:
    """Compare files of a folder with their SHA-256, by name.

    Raises:
        DamagedFileError: one is missing, or is another.
    """
    for name, digest in sorted(digests.items()):
        file = folder / name
        if not file.is_file():
            raise DamagedFileError(f"{file} is missing", _COPY_AGAIN)
        if digest != sha256_of(file):
            raise DamagedFileError(
                f"{file}: its SHA-256 is not the one that was written down", _COPY_AGAIN
            )


def others_in(folder: Path, known: Collection[str]) -> list[str]:
    """Paths of all that lies in a folder beside the known files and the folders that these lie in."""
    homes = {str(parent) for name in known for parent in PurePosixPath(name).parents}
    found = []
    for entry in folder.rglob("*"):
        name = entry.relative_to(folder).as_posix()
        is_home = name in homes and entry.is_dir() and not entry.is_symlink()
        if name not in known and not is_home:
            found.append(name)
    return sorted(found)


def check_plain(folder: Path, but: str = "") -> None:
    """Refuse links, pipes and devices at any depth: they lead out of the folder, or never end.

    Args:
        but: a name in the folder below which nothing is looked at.

    Raises:
        DamagedFileError: there is one; it is named.
    """
    for place, folders, names in os.walk(folder):
        if but and Path(place) == folder:
            folders[:] = [name for name in folders if name != but]
        for name in (*folders, *names):
            entry = Path(place, name)
            mode = entry.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise DamagedFileError(
                    f"{str(entry)!a} is neither a file nor a folder",
                    "put what it stands for in its place, or take it out",
                )


def is_left_over(file: Path) -> bool:
    """Whether this is a file that a killed process was writing."""
    return file.name.startswith(".") and file.name.endswith(".part") and file.is_file()


def open_locked(path: Path) -> BinaryIO | None:
    """A file for reading and writing, made if need be, that no other process opens so until it is closed.

    The kernel keeps the lock, so it ends with the process, however that ends, and counts on all machines that share the
    folder. Where there are no such locks, on Windows and some network file systems, every process gets the file.

    Returns:
        None when another holds it.
    """
    for _ in range(_TRIES):
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "rb+")
        if not _lock(file):
            file.close()
            return None
        if _is_at(path, file):
            return file
        file.close()  # whoever held it has removed it since it was opened
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(path))


@contextmanager
def lock_file(path: Path, what: str) -> Iterator[None]:
    """Hold a file that says by whom it is held; it is removed in the end.

    Raises:
        UsageError: another process holds it; `what` says what that one does.
    """
    file = open_locked(path)
    if file is None:
        raise UsageError(
            f"{what} ({_holder(path)})",
            f"wait for it, stop it, or choose another --out; if its machine is lost, delete {path}",
        )
    try:
        with suppress(OSError):  # on a full disk it stays nameless
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        is_ours = _is_at(path, file)
        if os.name == "nt":  # where an open file can't be removed
            file.close()
        if is_ours:
            with suppress(OSError):  # while it is held: afterwards it may be another's
                path.unlink()
        file.close()


def _lock(file: BinaryIO) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the latter on shares of Windows
        return False
    except OSError:
        # There are no locks here. Better none than no run; and whether another run lives can't be told from what it
        # has written.
        pass
    return True


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether the name is still that of this file; it may be of none by now, or of another."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _holder(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(200).decode(errors="replace") or "it has not said which"
    except OSError as error:
        return f"which can't be read: {error.strerror}"


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
