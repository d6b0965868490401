"""A prepared file while it grows: hidden files beside the place of the whole one.

.OUT.part           room for the header, then images as they come
.OUT.journal.part   the request; then a line for each part that has been written to the disk
.OUT.lock.part      held by the process that is at it

A line is written once the part it describes is synced, and holds the SHA-256 of all images so far. Whatever a killed
process or a lost machine leaves behind, the run continues from the last line that agrees with the images.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dpdm_cli.data.decoding import Pixels
from dpdm_cli.data.duplicates import Digests, digests_of
from dpdm_cli.errors import DamagedFileError, UsageError
from dpdm_cli.files import lock_file, sync_folder
from dpdm_cli.stored import Json, parse_json, understood

KIND = "dpdm unfinished images"
FORMAT = 2
REASONS = 20
"""The reason is kept for this many bad files."""

STRETCH_FILES, STRETCH_BYTES = 1 << 16, 32 << 20
"""Bytes taken before they are synced: some seconds of work."""

_BLOCK = 1 << 22  # bytes read at a time


@dataclass(frozen=True)
class _Stretch:
    """What a line of the journal says is on the disk: how far the run has come, and which files were bad since."""

    files: int
    rows: int
    shape: tuple[int, ...] | None
    sha256: str
    bad: tuple[tuple[int, str], ...]


class Unfinished:
    """A file that is being made.

    Args:
        out: the path of the complete file.
        request: what is made, as JSON.
        start: where the first image begins.
        most: how many files there are.

    Attributes:
        part: where the images are until the file is complete.
        files: how many files were read.
        rows: how many images they gave.
        shape: (C, H, W) of each; None before the first.
        bad: which files could not be used, as indices.
        reasons: of the first 20 of them.
    """

    def __init__(self, out: Path, request: Json, start: int, most: int) -> None:
        self.part, self._journal, self._lock = _paths(out)
        self._out, self._start = out, start
        self._request = {"kind": KIND, "format": FORMAT, **request}
        self.files = self.rows = 0
        self.shape: tuple[int, ...] | None = None
        self.bad = array("q")
        self.reasons: list[str] = []
        self._digests: Digests = np.empty((most, 2), np.uint64)
        self._sha256 = hashlib.sha256()
        self._saved = 0, 0  # files, and where the last image ended
        self._bad_since: list[tuple[int, str]] = []

    @contextmanager
    def open(self) -> Iterator[None]:
        """Lock the file for this process; begin it, or continue where it was left.

        Raises:
            UsageError: another process is preparing it, or another request left work that would be lost.
        """
        with (
            lock_file(self._lock, f"{self._out}: another process is preparing it", "OUT"),
            _private(self._journal) as self._lines,
        ):
            self._check_request()
            with _private(self.part) as self._images:
                self._replay()
                sync_folder(self._out.parent)
                try:
                    yield
                finally:
                    if not self.files:  # nothing was saved, so nothing is to be left
                        self.discard()

    @property
    def digests(self) -> Digests:
        """Of the images, uint64 [rows, 2]."""
        return self._digests[: self.rows]

    @property
    def images_sha256(self) -> str:
        """Of the bytes of all images."""
        return self._sha256.hexdigest()

    def append(self, images: Pixels, bad: Sequence[tuple[int, str]]) -> None:
        """Add the images of the next files.

        Args:
            images: uint8 [R, C, H, W], contiguous.
            bad: index and reason of those that cannot be used.
        """
        if len(images):
            self.shape = images.shape[1:]
            self._images.write(images.data)
            self._absorb(images)
        for index, reason in bad:
            self._take_bad(index, reason)
        self._bad_since += bad
        self.files += len(images) + len(bad)
        files, end = self._saved
        if self.files - files >= STRETCH_FILES or self._end - end >= STRETCH_BYTES:
            self.save()

    def save(self) -> None:
        """Sync what was added: a run that is interrupted continues from here."""
        if self._saved == (self.files, self._end):
            return
        _sync(self._images)
        bad = tuple(self._bad_since)
        stretch = _Stretch(self.files, self.rows, self.shape, self.images_sha256, bad)
        self._write_line(asdict(stretch))
        self._saved, self._bad_since = (self.files, self._end), []

    def finish(self, header: bytes, tail: bytes) -> None:
        """Write header, padding and labels, and move the complete file to its path."""
        self._images.seek(self._end)
        self._images.write(tail)
        self._images.truncate()
        _sync(self._images)
        self._images.seek(0)
        self._images.write(header)
        _sync(self._images)
        os.replace(self.part, self._out)
        sync_folder(self._out.parent)
        self.discard()

    def discard(self) -> None:
        """Remove both files."""
        self.part.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)

    @property
    def _end(self) -> int:
        """Where the last image ends."""
        return self._start + self.rows * (math.prod(self.shape) if self.shape else 0)

    def _check_request(self) -> None:
        """Empty the journal of another request, if nothing is lost by that."""
        self._lines.seek(0)
        began = _parsed(self._lines.readline())
        if began is None or began == self._request:
            return
        files = bad = 0
        while line := _read_line(self._lines):
            files, bad = line.files, bad + len(line.bad)
        # A set that was refused in the end for bad files, which have been repaired since.
        if files and not (bad and files == began.get("files")):
            raise _another(self.part, began, self._request)
        self._lines.truncate(0)

    def _replay(self) -> None:
        """Go to the last line that agrees with the images, and cut off the rest."""
        self._lines.seek(0)
        self._images.seek(self._start)
        if _parsed(self._lines.readline()) is None:
            self._begin()
            return
        good = self._lines.tell()
        while (line := _read_line(self._lines)) and self._agrees(line):
            good = self._lines.tell()
        self._saved = self.files, self._end
        self._lines.seek(good)
        self._lines.truncate()
        # Zeros where the header may have been written already: no reader takes this for complete.
        self._images.seek(0)
        self._images.write(bytes(self._start))
        self._images.seek(self._end)
        self._images.truncate()

    def _begin(self) -> None:
        for file in (self._lines, self._images):
            file.seek(0)
            file.truncate()
        self._write_line(self._request)
        self._images.truncate(self._start)
        self._images.seek(self._start)

    def _agrees(self, line: _Stretch) -> bool:
        """Add the images that a line describes, if they match it."""
        before = self._sha256.copy(), self.rows, self.shape
        self.shape = line.shape or None
        while self.shape and self.rows < line.rows:
            size = math.prod(self.shape)
            count = min(max(1, _BLOCK // size), line.rows - self.rows)
            block = self._images.read(count * size)
            if len(block) < count * size:
                break
            self._absorb(np.frombuffer(block, np.uint8).reshape(count, *self.shape))
        if self.images_sha256 != line.sha256:
            self._sha256, self.rows, self.shape = before
            return False
        for index, reason in line.bad:
            self._take_bad(index, reason)
        self.files = line.files
        return True

    def _absorb(self, images: Pixels) -> None:
        self._sha256.update(images.data)
        self._digests[self.rows : self.rows + len(images)] = digests_of(images)
        self.rows += len(images)

    def _take_bad(self, index: int, reason: str) -> None:
        self.bad.append(index)
        if len(self.reasons) < REASONS:
            self.reasons.append(reason)

    def _write_line(self, values: Json) -> None:
        self._lines.write(json.dumps(values).encode() + b"\n")
        _sync(self._lines)


def forget(out: Path) -> None:
    """Remove what is beside a file that is whole, when the process was killed before it could."""
    part, *others = _paths(out)
    if not part.exists():
        for other in others:
            other.unlink(missing_ok=True)


def _paths(out: Path) -> tuple[Path, Path, Path]:
    part, journal, lock = (
        out.with_name(f".{out.name}{kind}.part") for kind in ("", ".journal", ".lock")
    )
    return part, journal, lock


def _private(path: Path) -> BinaryIO:
    """Open for reading and writing, emptying nothing; readable by the owner alone."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "rb+")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _parsed(line: bytes) -> Json | None:
    """A complete line."""
    try:
        return parse_json(line, "a line") if line.endswith(b"\n") else None
    except DamagedFileError:
        return None


def _read_line(file: BinaryIO) -> _Stretch | None:
    try:
        return understood(_Stretch, _parsed(file.readline()), "a line")
    except DamagedFileError:
        return None


def _another(part: Path, began: Json, request: Json) -> UsageError:
    name = next(name for name in request if began.get(name) != request[name])
    found, wanted = json.dumps(began.get(name)), json.dumps(request[name])
    if name in ("source_sha256", "files"):
        what = "the source was changed since, or is another"
    else:
        what = f"{name} is {found[:80]} there, {wanted[:80]} now"
    return UsageError(
        f"{part} was begun by another command: {what}",
        "repeat that command, choose another OUT, or delete this file to begin anew",
    )
