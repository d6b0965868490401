"""Many files become one array of one size and kind, or one error that names all that is wrong.

Knows entries and pixels; neither folders nor archives.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dpdm_cli.data.decoding import BadImageError, Decoded, Fit, Pixels, decode
from dpdm_cli.data.layout import Entry
from dpdm_cli.errors import DataError, ResourceError

SHOWN = 20

_CHUNK = 64  # files a thread takes at a time
_THREADS = 8
_LARGE = (
    128  # pixels; below, most of the time goes into the interpreter, which threads only disturb
)


def collect(name: str, entries: Sequence[Entry], fit: Fit) -> Pixels:
    """Decode every entry, all of them, before judging any.

    Args:
        name: what the entries are from, for messages.
        entries: at least one.
        fit: size and channels wanted.

    Returns:
        uint8 [N, H, W] when all are grey, [N, H, W, 3] when all are colour, in the order of
        `entries`.

    Raises:
        DataError: files that cannot be used (the first 20 with their reasons, and the count),
            several sizes without an image size, grey and colour together without a number of
            channels.
        ResourceError: the array is larger than this machine's memory.
    """
    pixels: Pixels | None = None
    bad: list[str] = []
    sizes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for index, found in enumerate(_decoded(entries, fit)):
        if isinstance(found, str):
            bad.append(f"{entries[index]} {found}")
            continue
        sizes["{}x{}".format(*found.size)] += 1
        kinds["grey" if found.pixels.ndim == 2 else "colour"] += 1
        if pixels is None:
            check_memory(name, len(entries) * found.pixels.nbytes)
            pixels = np.empty((len(entries), *found.pixels.shape), np.uint8)
        if found.pixels.shape == pixels.shape[1:]:
            pixels[index] = found.pixels
    if bad or pixels is None:
        raise _bad_files(name, bad, len(entries))
    if len(sizes) > 1 and fit.image_size is None:
        raise DataError(
            f"{name} has images of {len(sizes)} sizes: {_counted(sizes)}",
            "Say which size you want, for example --image-size 32: "
            "the centred square of each image is resized to it.",
        )
    if len(kinds) > 1:
        raise DataError(
            f"{name} has grey and colour images together: {_counted(kinds)}",
            "Say which you want: --channels 1 makes all of them grey, --channels 3 colour.",
        )
    return pixels


def check_memory(name: str, size: int) -> None:
    """Refuse an array of `size` bytes that this machine cannot hold.

    Raises:
        ResourceError: it is larger than the physical memory, where the system tells that.
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


def _decoded(entries: Sequence[Entry], fit: Fit) -> Iterator[Decoded | str]:
    """Each entry's image, or the reason why there is none, in order."""

    def read(chunk: Sequence[Entry]) -> list[Decoded | str]:
        return [_read(entry, fit) for entry in chunk]

    chunks = [entries[start : start + _CHUNK] for start in range(0, len(entries), _CHUNK)]
    first = read(chunks[0]) if chunks else []
    yield from first
    if not any(isinstance(found, Decoded) and min(found.size) >= _LARGE for found in first):
        for chunk in chunks[1:]:
            yield from read(chunk)
        return
    pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))
    try:
        for results in pool.map(read, chunks[1:]):
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)


def _read(entry: Entry, fit: Fit) -> Decoded | str:
    try:
        return decode(entry.read(), fit)
    except BadImageError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror})" if error.strerror else str(error)


def _bad_files(name: str, bad: list[str], total: int) -> DataError:
    lines = [f"  {line}" for line in bad[:SHOWN]]
    if len(bad) > SHOWN:
        lines.append(f"  and {len(bad) - SHOWN} more")
    return DataError(
        "\n".join([f"{len(bad)} of {total} files in {name} cannot be used:", *lines]),
        "Convert them to 8-bit grey or RGB, as PNG, JPEG, WEBP or BMP, or take them away.",
    )


def _counted(counter: Counter[str], most: int = 5) -> str:
    shown = ", ".join(f"{what} ({count})" for what, count in counter.most_common(most))
    rest = len(counter) - most
    return shown + (f" and {rest} more" if rest > 0 else "")
