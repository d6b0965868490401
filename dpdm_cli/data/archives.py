"""A zip as a tree of entries, checked before a byte is decompressed. Nothing is ever unpacked.

Members are read one at a time into memory, so no name in an archive becomes a path on this machine.
Names that would be trouble elsewhere are refused all the same: they are the mark of a broken or
hostile archive.
"""

from __future__ import annotations

import stat
import unicodedata
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from dpdm_cli.data.layout import Entry, Parts, Tree
from dpdm_cli.errors import DataError

_HINT = "Make the archive anew from a plain folder of images: one subfolder a class, or flat."
_ENCRYPTED = 0x1
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".npz"}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an archive may hold.

    Attributes:
        members: number of files and folders.
        member_bytes, total_bytes: decompressed sizes.
        ratio: decompressed over compressed size, of a member above `ratio_from_bytes` (a small
            blank image may well compress better) and of an archive above 64 times that.
    """

    members: int = 1_000_000
    member_bytes: int = 256 * 1024**2
    total_bytes: int = 64 * 1024**3
    ratio: float = 200.0
    ratio_from_bytes: int = 1024**2


LIMITS = Limits()


def open_zip(path: Path, limits: Limits = LIMITS, *, nested: bool = False) -> zipfile.ZipFile:
    """Open an archive after checking every member's name, kind and size.

    Args:
        path: the archive.
        limits: what it may hold.
        nested: accept archives in the archive.

    Raises:
        DataError: not a zip, too much in it, encrypted or oddly compressed members, links, names
            that are absolute, climb with `..`, occur twice or differ in case only, an archive in
            the archive.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"{path} cannot be read as a zip archive: {error}",
            "It may be truncated: copy or download it again.",
        ) from None
    try:
        _check(path, archive.infolist(), limits, nested)
    except BaseException:
        archive.close()
        raise
    return archive


def read_archive(path: Path, limits: Limits = LIMITS) -> Tree:
    """Everything in a zip, each member to be read when it is asked for.

    Raises:
        DataError: see `open_zip`.
    """
    archive = open_zip(path, limits)
    files, folders = [], set[Parts]()
    for info in archive.infolist():
        parts = PurePosixPath(info.filename).parts
        if info.is_dir():
            folders.add(parts)
        else:
            files.append(Entry(parts, partial(read_member, archive, info)))
    return Tree(str(path), files, frozenset(folders))


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of one member, never more than its declared size.

    Raises:
        OSError: the member is damaged, or shorter than declared.
    """
    try:
        with archive.open(info) as member:
            # A bounded read: an unbounded one decompresses whatever there is before it looks at the
            # size.
            data = member.read(info.file_size + 1)
    except Exception as error:
        raise OSError(f"is damaged in the archive ({error})") from None
    if len(data) != info.file_size:
        raise OSError(f"is damaged in the archive ({len(data)} of {info.file_size} bytes)")
    return data


def _check(path: Path, members: list[zipfile.ZipInfo], limits: Limits, nested: bool) -> None:
    if len(members) > limits.members:
        raise DataError(f"{path} has {len(members):,} members, more than {limits.members:,}", _HINT)
    total = sum(info.file_size for info in members)
    if total > limits.total_bytes:
        raise DataError(
            f"{path} would unpack to {total:,} bytes, more than {limits.total_bytes:,}", _HINT
        )
    # Members may share their compressed bytes, so the whole is compared with the file.
    if total > 64 * limits.ratio_from_bytes and total > limits.ratio * path.stat().st_size:
        raise DataError(f"{path} would unpack more than {limits.ratio:g}-fold", _HINT)
    seen: dict[str, tuple[str, bool]] = {}
    for info in members:
        reason = (
            _name_trouble(info)
            or _kind_trouble(info, nested)
            or _size_trouble(info, limits)
            or _collision(info, seen)
        )
        if reason:
            raise DataError(f"{path}: member {info.orig_filename!r} {reason}", _HINT)


def _name_trouble(info: zipfile.ZipInfo) -> str:
    # zipfile cleans `filename` up, which hides what was written.
    name = info.orig_filename
    if not name or "\0" in name or "\\" in name:
        return "has an empty name, a backslash or a NUL in its name"
    if name.startswith("/") or name[1:2] == ":":
        return "has an absolute path"
    parts = name.removesuffix("/").split("/")
    if ".." in parts:
        return "climbs out of the archive with '..'"
    if "." in parts or "" in parts:
        return "has an empty or '.' part in its path"
    return ""


def _kind_trouble(info: zipfile.ZipInfo, nested: bool) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a symbolic link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is neither a file nor a folder"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in _METHODS:
        return "is compressed by a method other than deflate"
    if not nested and PurePosixPath(info.filename).suffix.lower() in _ARCHIVES:
        return "is an archive in the archive"
    return ""


def _size_trouble(info: zipfile.ZipInfo, limits: Limits) -> str:
    size = info.file_size
    if size > limits.member_bytes:
        return f"unpacks to {size:,} bytes, more than {limits.member_bytes:,}"
    if size > limits.ratio_from_bytes and size > limits.ratio * info.compress_size:
        return f"unpacks {size / max(info.compress_size, 1):,.0f}-fold, more than {limits.ratio:g}"
    return ""


def _collision(info: zipfile.ZipInfo, seen: dict[str, tuple[str, bool]]) -> str:
    """Whether this name, or a folder on its way, is another one's on some file system.

    `seen` maps what such file systems compare to the name as written, and whether it is a folder.
    """
    parts = info.filename.removesuffix("/").split("/")
    for depth in range(1, len(parts) + 1):
        name = "/".join(parts[:depth])
        folder = depth < len(parts) or info.is_dir()
        key = unicodedata.normalize("NFC", name).casefold()
        if key not in seen:
            seen[key] = (name, folder)
            continue
        other, other_folder = seen[key]
        if other != name:
            return f"differs only in case or in the spelling of accents from {other!r}"
        if folder != other_folder:
            return "is both a file and a folder"
        if not folder:
            return "occurs twice"
    return ""
