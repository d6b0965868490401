"""The central directory of a zip, one member at a time. Checks no name, keeps nothing.

`zipfile` takes some 700 bytes of memory for each member before the first can be read, which
an archive of millions of images does not allow. Written from PKWARE's APPNOTE.TXT 6.3, sections
4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16 (where it ends) and 4.5.3 (Zip64).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_END = struct.Struct("<4s4H2LH")  # of the central directory
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_RECORD = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 1 << 16
_BLOCK = 1 << 20
_LONGEST_RECORD = _RECORD.size + 3 * 0xFFFF
_UTF8 = 1 << 11
STORED, DEFLATED = 0, 8


class BadZipError(Exception):
    """Not a zip, or a damaged one."""


class Member(NamedTuple):
    """What the directory says about a member.

    Attributes:
        at: where its record is in the file.
        name: as written, with slashes; a folder's ends in one.
        flags, method, crc, compressed, size, attributes: see the specification; sizes in bytes.
        header: where its local header is in the file.
    """

    at: int
    name: str
    flags: int
    method: int
    crc: int
    compressed: int
    size: int
    attributes: int
    header: int


class Directory:
    """The members of an archive.

    Args:
        file: the archive, seekable; everything here moves its position.

    Attributes:
        count: how many members the archive claims to have.

    Raises:
        BadZipError: not a zip, or only a part of one.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._length = file.seek(0, 2)
        start = max(0, self._length - _END.size - _LONGEST_COMMENT)
        file.seek(start)
        tail = file.read()
        place = tail.rfind(b"PK\5\6")
        if place < 0 or place + _END.size > len(tail):
            raise BadZipError("it is not a zip file")
        end = start + place
        _, _, _, _, self.count, self._size, offset, _ = _END.unpack_from(tail, place)
        file.seek(max(0, end - _END64_LOCATOR.size))
        if file.read(4) == b"PK\6\7":
            end -= _END64_LOCATOR.size + _END64.size
            file.seek(max(0, end))
            end64 = file.read(_END64.size)
            if not end64.startswith(b"PK\6\6") or len(end64) < _END64.size:
                raise BadZipError("its Zip64 end record is not where it should be")
            *_, self.count, self._size, offset = _END64.unpack(end64)
        # Something may precede the archive, for example a program that unpacks it.
        self._before = end - self._size - offset
        self._start = end - self._size
        if self._before < 0:
            raise BadZipError("its directory is not where it should be")

    def __iter__(self) -> Iterator[Member]:
        """Every member, in the order of the directory.

        Raises:
            BadZipError: a record is damaged.
        """
        done, block, end = self._start, b"", self._start + self._size
        used = 0
        while done < end:
            if len(block) - used < _LONGEST_RECORD:
                self._file.seek(done)
                block, used = self._file.read(min(_BLOCK, end - done)), 0
            member, length = self._member(block, used, done)
            yield member
            used += length
            done += length

    def read(self, at: int) -> bytes:
        """The bytes of the member whose record is at `at`, never more than its declared size.

        Raises:
            BadZipError: the member is damaged, or not of the declared size.
        """
        return self._content(self.member(at))

    def member(self, at: int) -> Member:
        """What the directory says about the member whose record is at `at`."""
        self._file.seek(at)
        record = self._file.read(_RECORD.size)
        if len(record) == _RECORD.size:
            record += self._file.read(sum(_RECORD.unpack(record)[10:13]))
        return self._member(record, 0, at)[0]

    def _member(self, block: bytes, start: int, at: int) -> tuple[Member, int]:
        if start + _RECORD.size > len(block):
            raise BadZipError("its directory is truncated")
        fields = _RECORD.unpack_from(block, start)
        signature, _, _, flags, method, _, _, crc, compressed, size = fields[:10]
        names, extras, comment, _, _, attributes, header = fields[10:]
        after = start + _RECORD.size + names
        length = _RECORD.size + names + extras + comment
        if signature != b"PK\1\2" or start + length > len(block):
            raise BadZipError("its directory is damaged")
        try:
            name = block[start + _RECORD.size : after].decode("utf-8" if flags & _UTF8 else "cp437")
        except UnicodeDecodeError:
            raise BadZipError("a name in it is not UTF-8, though it says so") from None
        if 0xFFFFFFFF in (compressed, size, header):
            wide = _zip64(block[after : after + extras])
            try:
                size = wide.pop(0) if size == 0xFFFFFFFF else size
                compressed = wide.pop(0) if compressed == 0xFFFFFFFF else compressed
                header = wide.pop(0) if header == 0xFFFFFFFF else header
            except IndexError:
                raise BadZipError("a Zip64 size in it is missing") from None
        place = header + self._before
        return Member(at, name, flags, method, crc, compressed, size, attributes, place), length

    def _content(self, member: Member) -> bytes:
        if member.header > self._length:
            raise BadZipError("a member lies beyond its end")
        self._file.seek(member.header)
        header = self._file.read(_LOCAL.size)
        if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
            raise BadZipError("its local header is not where it should be")
        names, extras = _LOCAL.unpack(header)[-2:]
        start = member.header + _LOCAL.size + names + extras
        # Nothing is reserved for sizes that cannot be: no compressor adds an eighth.
        if start + member.compressed > self._length:
            raise BadZipError("it ends beyond the archive")
        if member.compressed > member.size + member.size // 8 + 1024:
            raise BadZipError("it is larger than it says")
        self._file.seek(start)
        data = self._file.read(member.compressed)
        if member.method == DEFLATED:
            try:
                # Bounded: an unbounded call would unpack everything.
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size + 1)
            except zlib.error as error:
                raise BadZipError(str(error)) from None
        if len(data) != member.size:
            raise BadZipError(f"{len(data)} of {member.size} bytes")
        if zlib.crc32(data) != member.crc:
            raise BadZipError("its checksum is wrong")
        return data


def _zip64(extra: bytes) -> list[int]:
    """The numbers of the Zip64 field, those of them that are there."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            field = extra[4 : 4 + length]
            return [n for (n,) in struct.iter_unpack("<Q", field[: len(field) // 8 * 8])]
        extra = extra[4 + length :]
    return []
