"""The images of a finished set, read from files that hold them and nothing else.

What a file can carry beside pixels (PNG chunks, archive members, comments, bytes between members) is found here, and so
neither verified nor released. Imports no torch.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dpdm_cli.data.readers.arrays import is_text
from dpdm_cli.data.readers.parquet import ROWS, ImageTable, ImageTableWriter, schema_of
from dpdm_cli.errors import DamagedFileError, DataError
from dpdm_cli.files import read_bytes, sha256_of
from dpdm_cli.sampling.album import TABLE, Album
from dpdm_cli.sampling.png import Pixels, PngEncoder
from dpdm_cli.sampling.writing import Format, place_of
from dpdm_cli.stored import Json, parse_json, same_json

_MOST = 256  # images at a time
_HEADER = 1 << 12  # bytes that an array of ours has before its numbers, at most
_TEXT = 1 << 26  # bytes
# Bytes of a zip's records, beside names and extras (APPNOTE 4.3): before a member, of it in the directory, at the end.
_LOCAL, _CENTRAL, _END, _END_64 = 30, 46, 22, 76


def finished_images(
    format: Format, folder: Path, album: Album, metadata: Json
) -> Iterator[tuple[int, Pixels]]:
    """All images of a set, as `ImageSink.put` takes them: the first index and uint8 [R, C, H, W] of each chunk.

    Args:
        metadata: what one file of all images must say of them.

    Raises:
        DamagedFileError: a file is missing, or holds anything but these images, their classes and the metadata.
    """
    if format == "png":
        return _from_files(folder, album)
    if format == "parquet":
        return _from_rows(place_of(format, folder), album, metadata)
    reader = _from_arrays if format == "npz" else _from_members
    return _from_archive(place_of(format, folder), album, metadata, reader)


def _from_files(folder: Path, album: Album) -> Iterator[tuple[int, Pixels]]:
    png, largest = PngEncoder(album.shape, marked=album.marked), _largest_of(album)

    def read(index: int) -> Pixels:
        path = folder / album.member(index)
        with _named(path):
            return png.decode(read_bytes(path, largest))

    return _chunks(album.indices, read)


def _from_archive(
    path: Path,
    album: Album,
    metadata: Json,
    reader: Callable[[zipfile.ZipFile, Album, Json], Iterator[tuple[int, Pixels]]],
) -> Iterator[tuple[int, Pixels]]:
    with _named(path), zipfile.ZipFile(path) as archive:
        if archive.comment or any(member.comment for member in archive.infolist()):
            raise ValueError("it carries a comment")
        _check_places(archive, path)
        yield from reader(archive, album, metadata)


def _from_members(
    archive: zipfile.ZipFile, album: Album, metadata: Json
) -> Iterator[tuple[int, Pixels]]:
    beside = ["metadata.json", TABLE]
    if len(archive.infolist()) != len(beside) + album.n:  # before each is given a name
        raise ValueError(f"{len(archive.infolist()):,} members are not those of {album.n:,} images")
    _check_members(archive, [*beside, *map(album.member, album.indices)])
    _check_text(_content(archive, "metadata.json", _TEXT), metadata)
    table = album.table()
    if _content(archive, TABLE, len(table)) != table:
        raise ValueError(f"{TABLE} does not hold the names and labels of its images")
    png, largest = PngEncoder(album.shape, marked=album.marked), _largest_of(album)

    def read(index: int) -> Pixels:
        return png.decode(_content(archive, album.member(index), largest))

    yield from _chunks(album.indices, read)


def _from_arrays(
    archive: zipfile.ZipFile, album: Album, metadata: Json
) -> Iterator[tuple[int, Pixels]]:
    beside = ["labels.npy", "classes.npy"] if album.cycle else []
    _check_members(archive, ["images.npy", "metadata.npy", *beside])
    _check_text(str(_array(archive, "metadata.npy", (), "U")).encode(), metadata)
    if album.cycle:
        labels = _array(archive, "labels.npy", (album.n,), "i")
        if labels.tolist() != [album.label(i) for i in range(album.n)]:
            raise ValueError("its labels are not those of its images")
        if _array(archive, "classes.npy", (len(album.classes),), "U").tolist() != [*album.classes]:
            raise ValueError("its classes are not those of the model")
    channels, *sides = album.shape
    shape = (*sides, channels) if channels > 1 else tuple(sides)
    with archive.open("images.npy") as member:
        _check_header(member, (album.n, *shape), "u")
        for start in range(0, album.n, _MOST):
            count = min(_MOST, album.n - start)
            content = member.read(count * int(np.prod(shape)))
            rows = np.frombuffer(content, np.uint8).reshape(count, *sides, channels)
            yield start, rows.transpose(0, 3, 1, 2)
        if member.read(1):
            raise ValueError("images.npy holds more than its images")


def _from_rows(path: Path, album: Album, metadata: Json) -> Iterator[tuple[int, Pixels]]:
    png, largest = PngEncoder(album.shape, marked=album.marked), _largest_of(album)
    with _named(path):
        if path.stat().st_size > album.n * largest + _TEXT:
            raise ValueError(f"it is larger than {album.n:,} images")
        with ImageTable(path) as table, _Digest() as written:
            _check_text(table.notes.encode(), metadata)
            if not table.schema.equals(schema_of(album.classes, table.notes), check_metadata=True):
                raise ValueError("its columns are not those of this set")
            rows, count = table.rows(), 0
            with ImageTableWriter(written, album.classes, table.notes) as same:
                while group := [*islice(rows, ROWS)]:
                    start, count = count, count + len(group)
                    expected = [album.row(i, row.content) for i, row in enumerate(group, start)]
                    if group != expected or count > album.n:
                        raise ValueError("its names and labels are not those of its images")
                    same.put(group)
                    yield start, np.stack([png.decode(row.content) for row in group])
            if count != album.n:
                raise ValueError(f"{count:,} images are not {album.n:,}")
            # What is between and behind the columns no reader shows.
            if table.is_of_this_release and written.hexdigest() != sha256_of(path):
                raise ValueError("it holds something besides its images")


class _Digest(io.RawIOBase):
    """A file of which nothing is kept but its SHA-256."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._digest.update(content)
        return len(content)

    def hexdigest(self) -> str:
        """Of what was written until now."""
        return self._digest.hexdigest()


def _chunks(indices: Sequence[int], read: Callable[[int], Pixels]) -> Iterator[tuple[int, Pixels]]:
    """Images one by one, grouped where they are consecutive."""
    breaks = [at for at, (one, next) in enumerate(pairwise(indices), 1) if next != one + 1]
    for first, last in pairwise([0, *breaks, len(indices)]):
        for start in range(first, last, _MOST):
            chunk = indices[start : min(start + _MOST, last)]
            yield chunk[0], np.stack([read(index) for index in chunk])


def _largest_of(album: Album) -> int:
    """Bytes that the file of one image has, at most."""
    return _HEADER + 2 * int(np.prod(album.shape))


def _check_members(archive: zipfile.ZipFile, expected: list[str]) -> None:
    found = archive.namelist()
    if found != expected:
        strange = next((n for n in found if n not in set(expected)), "one at another place")
        raise ValueError(f"its members are not those of this set, first {strange[:80]!a}")


def _check_places(archive: zipfile.ZipFile, path: Path) -> None:
    """Whether members follow each other from the first byte to the directory, with nothing between them."""
    at, directory = 0, _END
    with path.open("rb") as file:
        for member in archive.infolist():
            bare = copy(member)
            bare.extra = b""  # that of members beyond 4 GiB is in FileHeader's
            file.seek(at)
            fixed = file.read(_LOCAL)
            *_, name, extra = struct.unpack(f"<{_LOCAL - 4}xHH", fixed)
            found = fixed + file.read(name + extra)
            if member.header_offset != at or found != bare.FileHeader(zip64=extra > 0):
                raise ValueError(f"something precedes {member.filename[:80]!a}")
            about = member.date_time, member.external_attr, member.internal_attr
            if about != ((1980, 1, 1, 0, 0, 0), 0o644 << 16, 0) or not _is_size(member.extra):
                raise ValueError(f"{member.filename[:80]!a} is described as dpdm does not")
            at += len(found) + member.compress_size
            directory += _CENTRAL + name + len(member.extra)
        behind = file.seek(0, 2) - at
    if archive.start_dir != at or behind not in (directory, directory + _END_64):
        raise ValueError("it holds something besides its members")


def _is_size(extra: bytes) -> bool:
    """Whether what a directory adds to a member is nothing, or sizes and a place that need 8 bytes each."""
    if not extra:
        return True
    return len(extra) in (12, 20, 28) and extra[:4] == struct.pack("<HH", 1, len(extra) - 4)


def _content(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    with archive.open(name) as member:
        content = member.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{name} is larger than any")
    return content


def _array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
    with archive.open(name) as member:
        dtype = _check_header(member, shape, kind)
        size = dtype.itemsize * int(np.prod(shape))
        if size > _TEXT:
            raise ValueError(f"{name} is larger than any")
        content = member.read(size + 1)
    if len(content) != size:
        raise ValueError(f"{name} does not hold its array, or more")
    array: NDArray[Any] = np.frombuffer(content, dtype).reshape(shape)
    if kind == "U" and not is_text(array):
        raise ValueError(f"{name} holds numbers that are no characters")
    return array


def _check_header(member: IO[bytes], shape: tuple[int, ...], kind: str) -> np.dtype[Any]:
    """Read the header of an array of a shape and kind; gives its type."""
    version = npy.read_magic(member)
    if version != (1, 0):
        raise ValueError(f"an array is of version {version}")
    found, is_fortran, dtype = npy.read_array_header_1_0(member, max_header_size=_HEADER)
    if found != shape or is_fortran or dtype.kind != kind or (kind == "u" and dtype.itemsize != 1):
        raise ValueError(f"an array is {dtype} {list(found)}, expected {list(shape)}")
    return dtype


def _check_text(content: bytes, metadata: Json) -> None:
    if not same_json(parse_json(content, "its metadata", bare=True), metadata):
        raise ValueError("its metadata is not that of its folder")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file becomes damage to it."""
    try:
        yield
    except (
        *(OSError, ValueError, DamagedFileError, DataError),
        *(zipfile.BadZipFile, NotImplementedError),
    ) as error:
        raise DamagedFileError(
            f"{path}: holds something else than what was drawn: {error}", "draw the samples again"
        ) from error
