"""Many files become one array of one size and kind, or one error that names all that is wrong.

Knows entries and pixels; neither folders nor archives.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dpdm_cli.data.decoding import IN_WORDS, WHAT_TO_DO, BadImageError, Decoded, Fit, Pixels, decode
from dpdm_cli.data.layout import Entry
from dpdm_cli.data.reading import Reading
from dpdm_cli.errors import DataError, ResourceError
from dpdm_cli.reporter import Reporter

SHOWN = 20

_CHUNK = 64  # files a thread takes at a time
_THREADS = 8
_LARGE = (
    128  # pixels; below, most of the time goes into the interpreter, which threads only disturb
)


class Findings:
    """What is wrong with the files of a set, taken file by file.

    Args:
        name: what the files are from, for messages.
        total: how many there are.
        fit: size and channels wanted.

    Attributes:
        bad: how many files cannot be used.
        first_bad: the first 20 of them, each with the reason.
    """

    def __init__(self, name: str, total: int, fit: Fit) -> None:
        self.bad = 0
        self.first_bad: list[str] = []
        self._name, self._total, self._fit = name, total, fit
        self._sizes: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()

    def take_bad(self, title: str, reason: str) -> None:
        """A file that cannot be used."""
        self.bad += 1
        if len(self.first_bad) < SHOWN:
            self.first_bad.append(f"{title} {reason}")

    def take(self, size: tuple[int, int], colour: bool, count: int = 1) -> None:
        """Images of this width and height before the fit, grey or colour after it."""
        self._sizes["{}x{}".format(*size)] += count
        self._kinds["colour" if colour else "grey"] += count

    def check_files(self, more: str = "") -> None:
        """Refuse a set with files that cannot be used; `more` is added to the hint.

        Raises:
            DataError: the first 20 with their reasons, and the count.
        """
        if self.bad:
            found = f"{self.bad} of {self._total} files in {self._name} cannot be used:"
            hints = [
                hint
                for reason, hint in WHAT_TO_DO.items()
                if any(line.endswith(reason) for line in self.first_bad)
            ]
            hint = " ".join(hints) or f"Convert them to grey or RGB, as {IN_WORDS}, or remove them."
            raise DataError(f"{found}\n{self.bad_in_words()}", hint + more)

    def bad_in_words(self) -> str:
        """The first 20 files that cannot be used, one a line, and how many more there are."""
        lines = [f"  {line}" for line in self.first_bad]
        if self.bad > SHOWN:
            lines.append(f"  and {self.bad - SHOWN} more")
        return "\n".join(lines)

    def check_kind(self) -> None:
        """Refuse images that are not of one size and kind.

        Raises:
            DataError: several sizes without an image size, grey and colour without a number of
                channels.
        """
        if len(self._sizes) > 1 and self._fit.image_size is None:
            raise DataError(
                f"{self._name} has images of {len(self._sizes)} sizes: {_counted(self._sizes)}",
                "Give the size you want, for example --image-size 32: "
                "the centred square of each image is resized to it.",
            )
        if len(self._kinds) > 1:
            raise DataError(
                f"{self._name} has grey and colour images together: {_counted(self._kinds)}",
                "Choose one: --channels 1 makes all of them grey, --channels 3 colour.",
            )


def collect(
    name: str, entries: Sequence[Entry], fit: Fit, reading: Reading | None, reporter: Reporter
) -> tuple[Pixels, NDArray[np.int64]]:
    """Decode all entries before refusing any.

    Args:
        name: what the entries are from, for messages.
        entries: at least one.
        fit: size and channels wanted.
        reading: whether files that cannot be used are left out; None where nobody is asked.
        reporter: hears which are.

    Returns:
        uint8 [M, H, W] when all are grey, [M, H, W, 3] when all are colour, in the order of
        `entries`; and int64 [M], which of the entries these are.

    Raises:
        DataError: files that cannot be used (the first 20 with their reasons, and the count) unless they are left
            out, or none but such,
            several sizes without an image size, grey and colour together without a number of
            channels.
        ResourceError: the array is larger than this machine's memory.
    """
    pixels: Pixels | None = None
    kept: list[int] = []
    findings = Findings(name, len(entries), fit)
    for index, found in enumerate(_decoded(entries, fit)):
        if isinstance(found, str):
            findings.take_bad(str(entries[index]), found)
            continue
        findings.take(found.size, found.pixels.ndim == 3)
        if pixels is None:
            check_memory(name, len(entries) * found.pixels.nbytes)
            pixels = np.empty((len(entries), *found.pixels.shape), np.uint8)
        if found.pixels.shape == pixels.shape[1:]:
            pixels[len(kept)] = found.pixels
            kept.append(index)
    if pixels is None or reading is None or not reading.skip_bad:
        findings.check_files("" if reading is None else " Or leave them out with --skip-bad.")
    findings.check_kind()
    if findings.bad:
        bad = findings.bad_in_words()
        reporter.warn(f"{findings.bad:,} files cannot be used and are left out:\n{bad}")
    assert pixels is not None  # there is at least one entry, and not all are bad
    return pixels[: len(kept)], np.array(kept, np.int64)


def check_memory(name: str, size: int) -> None:
    """Refuse an array of `size` bytes that this machine cannot hold.

    Raises:
        ResourceError: it is larger than the physical memory, where the system reports that.
    """
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return
    if size > memory:
        raise ResourceError(
            f"{name} takes {size / 1e9:,.1f} GB of memory, this machine has {memory / 1e9:,.1f} GB",
            "Make the images smaller, for example with --image-size 64.",
        )


def read_chunk(chunk: Sequence[Entry], fit: Fit) -> list[Decoded | str]:
    """Each entry's image, or the reason why it cannot be used."""
    return [_read(entry, fit) for entry in chunk]


def reason_of(error: OSError) -> str:
    """Why a file cannot be read, in words that fit after its name."""
    return f"cannot be read ({error.strerror})" if error.strerror else str(error)


def _decoded(entries: Sequence[Entry], fit: Fit) -> Iterator[Decoded | str]:
    """Each entry's image, or the reason why it cannot be used, in order."""
    chunks = [entries[start : start + _CHUNK] for start in range(0, len(entries), _CHUNK)]
    first = read_chunk(chunks[0], fit) if chunks else []
    yield from first
    if not any(isinstance(found, Decoded) and min(found.size) >= _LARGE for found in first):
        for chunk in chunks[1:]:
            yield from read_chunk(chunk, fit)
        return
    pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))
    try:
        for results in pool.map(partial(read_chunk, fit=fit), chunks[1:]):
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)


def _read(entry: Entry, fit: Fit) -> Decoded | str:
    try:
        return decode(entry.read(), fit)
    except BadImageError as error:
        return str(error)
    except OSError as error:
        return reason_of(error)


def _counted(counter: Counter[str], most: int = 5) -> str:
    shown = ", ".join(f"{what} ({count})" for what, count in counter.most_common(most))
    rest = len(counter) - most
    return shown + (f" and {rest} more" if rest > 0 else "")
