"""Files that are whole or absent: written beside the target, synced, then moved over it. And files that are held, or
fetched.

Files that may be published hold what was written and nothing else, and have no others beside them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from dpdm_cli.errors import DamagedFileError, DataError, ResourceError, UsageError
from dpdm_cli.stored import COPY_AGAIN, MOST_BYTES, Json, parse_json

CARD = "README.md"
MODEL, STATE = "model.safetensors", "state.safetensors"
"""What a card is called, so that people and hosts find it."""

_PATIENCE = 0.1  # seconds; a lock that is removed while it is opened is made anew
_OWN_FILE, _OWN_FOLDER = 0o600, 0o700
_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@contextmanager
def disk_errors(path: Path, hint: str) -> Iterator[None]:
    """What the system says about writing to a place becomes a ResourceError, with this hint."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        if isinstance(error.filename, str) and path.parent not in Path(error.filename).parents:
            reason = error  # with the name: it may be a source that can't be read
        raise ResourceError(f"{path}: cannot write: {reason}", hint) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it replaces `path`, on failure it is removed.

    Raises:
        ResourceError: the disk is full or the place cannot be written; `path` keeps its old content.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    hint = "free space or choose another place; what was there before is unchanged"
    with disk_errors(path, hint):
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
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


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
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


def read_json(path: Path, *, hint: str = COPY_AGAIN, bare: bool = True) -> Json:
    """The JSON object in a file, which holds nothing beside it if it is to be `bare`.

    Raises:
        DamagedFileError: there is no such file or no such object, see `parse_json`.
    """
    try:
        content = read_bytes(path)
    except OSError as error:
        raise DamagedFileError(
            f"{path}: cannot be read: {error.strerror or error}", hint
        ) from error
    return parse_json(content, str(path), hint=hint, bare=bare)


def check_digests(folder: Path, digests: Mapping[str, str | None]) -> None:
    """Compare files of a folder with their SHA-256, by name.

    Raises:
        DamagedFileError: one is missing, or is another.
    """
    for name, digest in sorted(digests.items()):
        file = folder / name
        if not file.is_file():
            raise DamagedFileError(f"{file} is missing", COPY_AGAIN)
        if digest != sha256_of(file):
            raise DamagedFileError(
                f"{file}: its SHA-256 is not the one that was written down", COPY_AGAIN
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


@contextmanager
def lock_file(path: Path, what: str, place: str = "--out") -> Iterator[None]:
    """Hold a file that says by whom it is held; it is removed in the end.

    The kernel keeps the lock, so it ends with the process, however that ends, and counts on all machines that share the
    folder. Where there are no such locks, on some network file systems, every process gets the file.

    Args:
        place: what to choose another one of when it is held.

    Raises:
        UsageError: another process holds it; `what` says what that one does.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=_PATIENCE, poll_interval=0.01, mode=0o600, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"{what} ({_holder(path)})",
            f"wait for it, stop it, or choose another {place}; if its machine is lost, delete {path}",
        ) from None
    except OSError as error:
        # Better no lock than no run; and whether another run lives can't be told from what it has written.
        if error.errno not in _WITHOUT_LOCKS:
            raise
    held = path.stat()
    try:
        with suppress(OSError):  # on a full disk it stays nameless
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        with suppress(OSError):  # while it is held, and unless it is another's by now
            if os.path.samestat(held, path.stat()):
                path.unlink()
        lock.release()


def _holder(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(200).decode(errors="replace") or "it has not said which"
    except OSError as error:
        return f"which can't be read: {error.strerror}"


@contextmanager
def network_timeout(seconds: float) -> Iterator[None]:
    """Limit how long libraries wait for the next byte that open their connections without a limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


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


def refuse_run(path: Path) -> None:
    """Where images are expected, recognise what a training run leaves.

    Raises:
        DataError: the folder is a run's, finished or not; it says where images are to be had.
    """
    if _is_unfinished_run(path):
        raise _unfinished_run(path)
    if os.path.isfile(path / MODEL):
        drawn = sorted(found.parent for found in path.glob("*/metadata.json"))
        raise DataError(
            f"{path} is a training run, not images",
            f"give the images that were drawn from it: {drawn[0]}"
            if drawn
            else f"draw images from it and give those: dpdm sample {path} -n 10000",
        )


def refuse_samples(path: Path) -> None:
    """Where a model is expected, recognise a set of images that was drawn, and a run that is not finished.

    Raises:
        DataError: the folder is none of a model; it says where the model is.
    """
    # os.path answers False where pathlib raises: for names that are too long, or below folders that may not be entered.
    if not os.path.isdir(path) or os.path.isfile(path / MODEL):
        return
    if _is_unfinished_run(path):
        raise _unfinished_run(path)
    if os.path.isfile(path / "metadata.json") or any(path.glob(".sampling*.json")):
        run = path.absolute().parent
        raise DataError(
            f"{path} is a set of synthetic images, not a model",
            f"give the run that they were drawn from: {path.parent}"
            if (run / MODEL).is_file()
            else "give the run, or the model.safetensors, that they were drawn from",
        )
    raise DataError(
        f"{path}: there is no {MODEL} in this folder",
        "give a run of `dpdm train`, or the path of a model.safetensors",
    )


def _is_unfinished_run(path: Path) -> bool:
    return os.path.isfile(path / "private" / STATE) and not os.path.isfile(path / MODEL)


def _unfinished_run(path: Path) -> DataError:
    return DataError(
        f"{path} is a training run that is not finished",
        "complete it first: repeat its `dpdm train` with --resume",
    )
