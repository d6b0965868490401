"""Where drawn images go: PNG files in class folders, one .npz, or one zip or parquet file of PNG files.

A sink takes batches in any order and reports which of them are complete, so that an interrupted run can continue.
Completeness is judged by checksums of the files, never by a record of what was meant to be written: a killed process
or a full disk may leave anything, but nothing that passes for an image. Knows bytes and names; draws nothing. Imports
no torch.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Protocol, get_args

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dpdm_cli.choices import ImageFormat
from dpdm_cli.data.readers.parquet import ROWS, ImageTableWriter, arrow
from dpdm_cli.errors import DamagedFileError
from dpdm_cli.files import replacing, sha256_of
from dpdm_cli.sampling.album import TABLE, Album
from dpdm_cli.sampling.png import Pixels, PngEncoder
from dpdm_cli.stored import Json, json_text

Format = ImageFormat
FORMATS: tuple[Format, ...] = get_args(Format)

_THREADS = min(8, os.cpu_count() or 1)
_CHUNK = 64  # images a thread takes at a time
_MOST_WAITING = 64  # chunks


class ImageSink(Protocol):
    """A place for the images of an album. OSError means what it says: the disk is full, for example."""

    path: Path
    """The path by which other commands read the images."""

    def whole(self, start: int, stop: int) -> int:
        """How many of the images [start, stop) are there and complete before the first that is not."""

    def put(self, start: int, images: Pixels) -> None:
        """Take uint8 [R, C, H, W], the images from `start` on. May return before they are written."""

    def flush(self) -> None:
        """Wait until everything taken is written."""

    def read(self, index: int) -> Pixels:
        """One complete image, uint8 [C, H, W]."""

    def finish(self, metadata: Json) -> str:
        """Complete the set on the disk, the metadata with it where the format holds any.

        Returns the digest of the images, see `digest`. Harmless when repeated.
        """

    def digest(self) -> str:
        """SHA-256 (hex) of a finished set: of the one file, or of the lines `sha256sum` prints for
        the PNG files sorted by their bytes.

        Raises:
            DamagedFileError: a file is missing.
        """

    def discard(self) -> None:
        """Remove what only an unfinished set needs."""

    def close(self) -> None:
        """Stop; what was taken and not flushed may be lost."""


def place_of(format: Format, folder: Path) -> Path:
    """The path by which other commands read the images of a folder."""
    return folder if format == "png" else folder / f"samples.{format}"


def open_sink(format: Format, folder: Path, album: Album) -> ImageSink:
    """The sink for a format; the folder must exist before the first `put`. An album's part goes into PNG files only.

    Raises:
        DataError: the classes can't be folders.
        UsageError: pyarrow is not installed, which writes parquet files.
    """
    if format in ("png", "zip"):
        album.check_names()
    if format == "parquet":
        arrow()
    if format == "png":
        return PngFolder(folder, album)
    return SingleFile(folder, album, format)


class PngFolder:
    """`folder/train/class/000123.png`; without classes `folder/train/000123.png`. Threads encode and write."""

    def __init__(self, folder: Path, album: Album) -> None:
        self.path = folder
        self._album = album
        self._png = PngEncoder(album.shape, marked=album.marked)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="png")
        self._waiting: deque[Future[None]] = deque()
        self._has_folders = False

    def whole(self, start: int, stop: int) -> int:
        return next((i for i in range(start, stop) if not self._is_whole(i)), stop) - start

    def put(self, start: int, images: Pixels) -> None:
        if not self._has_folders:
            for name in self._album.folders():
                (self.path / name).mkdir(parents=True, exist_ok=True)
            self._has_folders = True
        for offset in range(0, len(images), _CHUNK):
            chunk = images[offset : offset + _CHUNK]
            self._waiting.append(self._threads.submit(self._write, start + offset, chunk))
        while self._waiting and (len(self._waiting) > _MOST_WAITING or self._waiting[0].done()):
            self._waiting.popleft().result()

    def flush(self) -> None:
        while self._waiting:
            self._waiting.popleft().result()

    def read(self, index: int) -> Pixels:
        from PIL import Image

        with Image.open(self._file(index)) as image:
            pixels = np.asarray(image)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def finish(self, metadata: Json) -> str:
        self.flush()
        if hasattr(os, "sync"):
            # Once for all: a sync for each of many thousand files would take longer than drawing them.
            os.sync()
        return self.digest()

    def digest(self) -> str:
        lines = hashlib.sha256()
        for member in sorted(map(self._album.member, self._album.indices)):
            try:
                digest = sha256_of(self.path / member)
            except OSError as error:
                raise DamagedFileError(
                    f"{self.path / member}: cannot be read: {error.strerror}",
                    "the images were changed after they were drawn: draw them into another folder",
                ) from error
            lines.update(f"{digest}  {member}\n".encode())
        return lines.hexdigest()

    def discard(self) -> None:
        for name in self._album.folders():
            for left_over in (self.path / name).glob(".[0-9]*.png.*part"):
                left_over.unlink(missing_ok=True)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _file(self, index: int) -> Path:
        return self.path / self._album.member(index)

    def _is_whole(self, index: int) -> bool:
        try:
            return self._png.is_whole(self._file(index).read_bytes())
        except OSError:
            return False

    def _write(self, start: int, images: Pixels) -> None:
        for index, content in enumerate(self._png.encode(images), start):
            file = str(self._file(index))
            folder, name = os.path.split(file)
            part = f"{folder}/.{name}.{os.getpid()}.part"
            # Not synced one by one: `has` looks at what is there, and `finish` syncs the whole.
            try:
                with open(part, "wb", buffering=0) as stream:
                    stream.write(content)
                os.replace(part, file)
            except OSError:
                Path(part).unlink(missing_ok=True)
                raise


class SingleFile:
    """`folder/samples.npz`, `.zip` or `.parquet`, made at the end from raw pixels kept beside it.

    The raw pixels are at their place by index; a line in a journal gives the SHA-256 of each batch.
    """

    def __init__(self, folder: Path, album: Album, format: Format) -> None:
        self.path = place_of(format, folder)
        self._album, self._format = album, format
        self._raw = folder / ".samples.raw"
        self._journal = folder / ".samples.sha256"
        self._known = self._read_journal()
        self._bytes = int(np.prod(album.shape))

    def whole(self, start: int, stop: int) -> int:
        at = start
        while at < stop:
            ends = (
                end for end in self._known.get(at, {}) if end <= stop and self._is_whole(at, end)
            )
            longest = max(ends, default=at)
            if longest == at:
                break
            at = longest
        return at - start

    def put(self, start: int, images: Pixels) -> None:
        content = images.tobytes()
        mode = "rb+" if self._raw.exists() else "wb"
        with self._raw.open(mode) as file:
            file.seek(start * self._bytes)
            file.write(content)
        digest, stop = hashlib.sha256(content).hexdigest(), start + len(images)
        with self._journal.open("a", encoding="ascii") as journal:
            # A line of its own even after one that was cut off.
            journal.write(f"\n{start} {stop} {digest}\n")
        self._known.setdefault(start, {})[stop] = digest

    def flush(self) -> None:
        """Nothing waits."""

    def read(self, index: int) -> Pixels:
        return np.frombuffer(self._read_raw(index, index + 1), np.uint8).reshape(self._album.shape)

    def finish(self, metadata: Json) -> str:
        text = json_text(metadata).decode()
        write = {
            "npz": self._write_arrays,
            "zip": self._write_members,
            "parquet": self._write_rows,
        }[self._format]
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            write(file, text)
        return self.digest()

    def digest(self) -> str:
        if not self.path.is_file():
            raise DamagedFileError(
                f"{self.path}: no such file",
                "the images were removed after they were drawn: draw them into another folder",
            )
        return sha256_of(self.path)

    def discard(self) -> None:
        self._raw.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is open."""

    def _is_whole(self, start: int, stop: int) -> bool:
        if not self._raw.is_file():
            return False
        return hashlib.sha256(self._read_raw(start, stop)).hexdigest() == self._known[start][stop]

    def _read_raw(self, start: int, stop: int) -> bytes:
        with self._raw.open("rb") as file:
            file.seek(start * self._bytes)
            return file.read((stop - start) * self._bytes)

    def _pixels(self) -> Pixels:
        shape = (self._album.n, *self._album.shape)
        return np.memmap(self._raw, np.uint8, mode="r", shape=shape)

    def _write_arrays(self, file: IO[bytes], text: str) -> None:
        pixels, album = self._pixels(), self._album
        arrays: dict[str, NDArray[Any]] = {
            "images": pixels[:, 0] if album.shape[0] == 1 else pixels.transpose(0, 2, 3, 1).copy(),
            "metadata": np.array(text),
        }
        if album.cycle:
            arrays["labels"] = np.array([album.label(i) for i in range(album.n)], np.int64)
            arrays["classes"] = np.array(album.classes)
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                info = _member(f"{name}.npy")
                info.compress_type = zipfile.ZIP_DEFLATED
                with archive.open(info, "w", force_zip64=True) as member:
                    npy.write_array(member, array, allow_pickle=False)

    def _write_members(self, file: IO[bytes], text: str) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(_member("metadata.json"), text)
            archive.writestr(_member(TABLE), self._album.table())
            for start, contents in self._encoded(_CHUNK):
                for index, content in enumerate(contents, start):
                    archive.writestr(_member(self._album.member(index)), content)

    def _write_rows(self, file: IO[bytes], text: str) -> None:
        with ImageTableWriter(file, self._album.classes, text) as table:
            for start, contents in self._encoded(ROWS):
                table.put([self._album.row(i, each) for i, each in enumerate(contents, start)])

    def _encoded(self, count: int) -> Iterator[tuple[int, list[bytes]]]:
        """PNG files of all images, so many at a time, with the index of the first."""
        pixels, png = self._pixels(), PngEncoder(self._album.shape, marked=self._album.marked)
        for start in range(0, self._album.n, count):
            yield start, png.encode(pixels[start : start + count])

    def _read_journal(self) -> dict[int, dict[int, str]]:
        """Digests of images [start, stop), by start and stop."""
        known: dict[int, dict[int, str]] = {}
        if self._journal.is_file():
            for line in self._journal.read_text(encoding="ascii", errors="replace").splitlines():
                words = line.split()
                if len(words) == 3 and words[0].isdigit() and words[1].isdigit():
                    known.setdefault(int(words[0]), {})[int(words[1])] = words[2]
        return known


def _member(name: str) -> zipfile.ZipInfo:
    """A member without a date, so that the same images make the same file."""
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o644 << 16
    return info
