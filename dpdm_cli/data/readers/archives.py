"""A zip as a tree of entries, checked before a byte is decompressed. Nothing is ever unpacked.

Members are read one at a time into memory, so no name in an archive becomes a path on this machine.
Names that would be dangerous elsewhere are refused all the same: they are signs of a broken or
hostile archive.
"""

from __future__ import annotations

import stat
import threading
import unicodedata
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from posixpath import splitext
from types import TracebackType

import numpy as np

from dpdm_cli.data.layout import Entry, Parts, Tree
from dpdm_cli.data.readers.zip_directory import DEFLATED, STORED, BadZipError, Directory, Member
from dpdm_cli.errors import DataError

_HINT = "Make the archive again from a plain folder of images: one subfolder per class, or flat."
_ENCRYPTED = 0x1
_ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".npz"}
_LONGEST_NAME = 4096  # characters; each folder on the way is a name to be compared


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an archive may hold.

    Attributes:
        members: number of files and folders. Reading takes some 200 bytes of memory for each.
        member_bytes, total_bytes: decompressed sizes.
        ratio: decompressed over compressed size, of a member above `ratio_from_bytes` (a small
            blank image may well compress better) and of an archive above 64 times that.
    """

    members: int = 20_000_000
    member_bytes: int = 256 * 1024**2
    total_bytes: int = 1024**4
    ratio: float = 200.0
    ratio_from_bytes: int = 1024**2


LIMITS = Limits()


class Archive:
    """An open zip whose members are read one at a time. Threads may share it.

    Args:
        path: the archive.
        limits: what it may hold.
        nested: accept archives in the archive.

    Raises:
        DataError: it is not a zip.
    """

    def __init__(self, path: Path, limits: Limits = LIMITS, *, nested: bool = False) -> None:
        self.path = path
        self._limits, self._nested = limits, nested
        self._lock = threading.Lock()
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise _unreadable(path, error) from None
        try:
            self._directory = Directory(self._file)
        except (BadZipError, OSError) as error:
            self._file.close()
            raise _unreadable(path, error) from None

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def members(self) -> Iterator[Member]:
        """Every member, checked: a caller must not read any before all of them have come.

        Raises:
            DataError: too much in it, encrypted or oddly compressed members, links, names that are
                absolute, climb with `..`, occur twice or differ in case only, an archive in the
                archive.
        """
        path, limits = self.path, self._limits
        total, files, folders = 0, array("q"), {""}
        for number, member in enumerate(self._listed(), 1):
            if number > limits.members:
                found = max(number, self._directory.count)
                raise DataError(
                    f"{path} has {found:,} members, more than {limits.members:,}", _HINT
                )
            reason = (
                _name_trouble(member)
                or _kind_trouble(member, self._nested)
                or _size_trouble(member, limits)
            )
            if reason:
                raise DataError(f"{path}: member {member.name!r} {reason}", _HINT)
            folder, _, name = member.name.rpartition("/")
            if name:
                files.append(_compared(member.name))
            if folder not in folders:
                folders.update(_ways(folder))
            total += member.size
            if total > limits.total_bytes:
                raise DataError(
                    f"{path} would unpack to more than {limits.total_bytes:,} bytes", _HINT
                )
            yield member
        # Members may share their compressed bytes, so the whole is compared with the file.
        if total > 64 * limits.ratio_from_bytes and total > limits.ratio * path.stat().st_size:
            raise DataError(f"{path} would unpack more than {limits.ratio:g}-fold", _HINT)
        # Eight bytes for each file; folders are few. Of twenty million names two share a hash by chance once in 90,000
        # times, and then not again when the command is repeated.
        keys = np.array([*map(_compared, folders)], np.int64)
        keys = np.sort(np.concatenate([np.frombuffer(files, np.int64), keys]))
        if twice := set(keys[1:][keys[1:] == keys[:-1]].tolist()):
            for member in self._listed():
                if any(_compared(way) in twice for way in _ways(member.name.removesuffix("/"))):
                    reason = "occurs twice, it or a folder on its way, perhaps in another spelling"
                    raise DataError(f"{path}: member {member.name!r} {reason}", _HINT)

    def content(self, at: int) -> bytes:
        """The bytes of a member, never more than its declared size.

        Args:
            at: `Member.at`.

        Raises:
            OSError: the member is damaged, or not of the declared size.
        """
        try:
            with self._lock:
                return self._directory.read(at)
        except BadZipError as error:
            raise OSError(f"is damaged in the archive ({error})") from None

    def read(self, entry: Entry) -> bytes:
        """The bytes of an entry of this archive; see `content`."""
        return self.content(entry.at)

    def facts(self, entry: Entry) -> str:
        """Size and checksum.

        Raises:
            DataError: the archive is not what it was when it was opened.
        """
        try:
            with self._lock:
                member = self._directory.member(entry.at)
        except (BadZipError, OSError) as error:
            raise _unreadable(self.path, error) from None
        return f"{member.size} {member.crc}"

    def _listed(self) -> Iterator[Member]:
        try:
            yield from self._directory
        except (BadZipError, OSError) as error:
            raise _unreadable(self.path, error) from None


def read_archive(path: Path, limits: Limits = LIMITS) -> Tree:
    """Everything in a zip, each member to be read when it is asked for.

    Raises:
        DataError: not a zip, or what `Archive.members` refuses.
    """
    archive = Archive(path, limits)
    files: list[Entry] = []
    folders: dict[str, Parts] = {"": ()}
    for member in archive.members():
        folder, _, name = member.name.rpartition("/")
        parts = folders.get(folder)
        if parts is None:
            parts = folders[folder] = tuple(folder.split("/"))
        if name:
            files.append(Entry(parts, name, archive, member.at))
    return Tree(str(path), files, frozenset(folders.values()) - {()})


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read as a zip archive: {error}",
        "It may be truncated: copy or download it again.",
    )


def _name_trouble(member: Member) -> str:
    name = member.name
    if not name or "\0" in name or "\\" in name:
        return "has an empty name, a backslash or a NUL in its name"
    if name.startswith("/") or name[1:2] == ":":
        return "has an absolute path"
    if len(name) > _LONGEST_NAME:
        return f"has a path of more than {_LONGEST_NAME:,} characters"
    parts = name.removesuffix("/").split("/")
    if ".." in parts:
        return "climbs out of the archive with '..'"
    if "." in parts or "" in parts:
        return "has an empty or '.' part in its path"
    return ""


def _kind_trouble(member: Member, nested: bool) -> str:
    kind = stat.S_IFMT(member.attributes >> 16)
    if kind == stat.S_IFLNK:
        return "is a symbolic link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is neither a file nor a folder"
    if member.flags & _ENCRYPTED:
        return "is encrypted"
    if member.method not in (STORED, DEFLATED):
        return "is compressed by a method other than deflate"
    # Not a Path: those keep every name's parts in a table of the whole process.
    if not nested and splitext(member.name)[1].lower() in _ARCHIVES:
        return "is an archive in the archive"
    return ""


def _size_trouble(member: Member, limits: Limits) -> str:
    size = member.size
    if size > limits.member_bytes:
        return f"unpacks to {size:,} bytes, more than {limits.member_bytes:,}"
    if size > limits.ratio_from_bytes and size > limits.ratio * member.compressed:
        return f"unpacks {size / max(member.compressed, 1):,.0f}-fold, more than {limits.ratio:g}"
    return ""


def _compared(name: str) -> int:
    """A hash of what file systems compare that take names in another case, or with other accents, for the same."""
    return hash(unicodedata.normalize("NFC", name).casefold())


def _ways(folder: str) -> Iterator[str]:
    """A folder and those it lies in."""
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]
