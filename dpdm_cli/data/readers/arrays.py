"""Images in one .npz file: `images`, and optionally `labels`, `classes` and `persons`. Unpickles nothing.

The members' headers are read here rather than by `numpy.load`, which reserves whatever size a
header claims.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dpdm_cli.data.collecting import check_memory
from dpdm_cli.data.decoding import Pixels
from dpdm_cli.data.images import check_labels, renamed
from dpdm_cli.data.readers.archives import Archive, Limits
from dpdm_cli.data.readers.zip_directory import Member
from dpdm_cli.errors import DataError

# Sorted labels and blank images compress without bound; what is reserved is checked against the
# memory.
_LIMITS = Limits(members=64, member_bytes=64 * 1024**3, ratio=math.inf)
_HINT = "Expected `images` uint8 [N, H, W] or [N, H, W, 3] and, with classes, `labels` int64 [N]."


@dataclass(frozen=True)
class Arrays:
    """What an .npz file holds.

    Attributes:
        pixels: uint8 [N, H, W] or [N, H, W, 3].
        labels: int64 [N] with values in [0, len(classes)), or None.
        classes: names in label order, empty when there are no labels.
        persons: whose each image is, numbered from 0 on, int64 [N], or None.
    """

    pixels: Pixels
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    persons: NDArray[np.int64] | None = None


def read_arrays(path: Path, classes: Sequence[str] | None) -> Arrays:
    """Read images, labels and class names.

    Args:
        path: an .npz file; arrays of other names in it are ignored.
        classes: the declared names in label order. Labels of a file that has names of its own are
            carried over by name. Without either, the classes are the numbers from 0 to the largest
            label.

    Raises:
        DataError: damaged, objects instead of numbers, other shapes or types, no image, labels out
            of range, a class without an image that is not declared, classes for a file without
            labels.
        ResourceError: more than the memory holds.
    """
    with _opened(path) as archive:
        members = {member.name.removesuffix(".npy"): member for member in archive.members()}
        if "images" not in members:
            raise DataError(f"{path} has no array `images`, only {sorted(members)[:10]}", _HINT)
        pixels = _read(path, archive, members["images"])
        labels = _read(path, archive, members["labels"]) if "labels" in members else None
        names = _read(path, archive, members["classes"]) if "classes" in members else None
        people = _read(path, archive, members["persons"]) if "persons" in members else None
    pixels = _checked_pixels(path, pixels)
    persons = None if people is None else _numbered_persons(path, people, len(pixels))
    if labels is None:
        if classes is not None:
            raise DataError(
                f"{len(classes)} classes are declared, but {path} has no array `labels`", _HINT
            )
        return Arrays(pixels, None, (), persons)
    if labels.dtype.kind in "iu" and labels.dtype.itemsize <= 8:
        labels = labels.astype(np.int64)
    known = _class_names(path, names) if names is not None else None
    order = tuple(classes) if classes is not None else known
    if order is None:
        numbers = labels.dtype == np.int64
        highest = int(labels.max(initial=0)) if numbers else 0
        check_labels(str(path), labels, len(pixels), highest + 1)
        order = _numbered(path, labels)
    check_labels(str(path), labels, len(pixels), len(known or order))
    if known and known != order:
        labels = renamed(str(path), labels, known, order)
    return Arrays(pixels, labels, order, persons)


def is_text(array: NDArray[Any]) -> bool:
    """Whether an array from outside holds texts, of characters that there are; numpy does not ask."""
    if array.dtype.kind != "U":
        return False
    codes = np.frombuffer(array.tobytes(), np.dtype("u4").newbyteorder(array.dtype.byteorder))
    return int(codes.max(initial=0)) <= sys.maxunicode


def _opened(path: Path) -> Archive:
    try:
        return Archive(path, _LIMITS, nested=True)
    except DataError as error:  # mentions a zip, which the user has not named
        text = error.message.replace("as a zip archive", "as an .npz file")
        raise DataError(text, error.hint) from None


def _read(path: Path, archive: Archive, member: Member) -> NDArray[Any]:
    check_memory(str(path), member.size)
    where = f"{path}: array {member.name.removesuffix('.npy')!r}"
    try:
        data = archive.content(member.at)
        stream = io.BytesIO(data)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, fortran, dtype = read_header[npy.read_magic(stream)](stream)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{where} cannot be read: {error}", _HINT) from None
    if dtype.hasobject or dtype.itemsize == 0:
        raise DataError(f"{where} holds Python objects or nothing, which are not read", _HINT)
    start = stream.tell()
    count = math.prod(shape)
    if count < 0 or len(data) - start != count * dtype.itemsize:
        raise DataError(
            f"{where} claims {list(shape)} of {dtype} but has {len(data) - start} bytes of it",
            _HINT,
        )
    flat: NDArray[Any] = np.frombuffer(data, dtype, count, start)
    try:
        return flat.reshape(shape, order="F" if fortran else "C")
    except ValueError as error:  # empty, with sides whose product no machine can count to
        raise DataError(f"{where} has the shape {list(shape)}: {error}", _HINT) from None


def _checked_pixels(path: Path, pixels: NDArray[Any]) -> Pixels:
    grey = pixels.ndim == 3
    colour = pixels.ndim == 4 and pixels.shape[3] in (1, 3)
    if pixels.dtype != np.uint8 or not (grey or colour):
        raise DataError(f"{path}: `images` is {pixels.dtype} {list(pixels.shape)}", _HINT)
    if pixels.size == 0:
        raise DataError(f"{path} holds no image: `images` is {list(pixels.shape)}", _HINT)
    return pixels[..., 0] if colour and pixels.shape[3] == 1 else pixels


def _class_names(path: Path, names: NDArray[Any]) -> tuple[str, ...]:
    found = tuple(str(name) for name in names) if names.ndim == 1 and is_text(names) else ()
    if not found or len(set(found)) != len(found):
        raise DataError(
            f"{path}: `classes` must be different names, found {names.dtype} {list(names.shape)}",
            _HINT,
        )
    return found


def _numbered_persons(path: Path, people: NDArray[Any], images: int) -> NDArray[np.int64]:
    """Numbers from 0 on for identifiers, which are numbers or texts."""
    if people.shape != (images,) or not (people.dtype.kind in "iu" or is_text(people)):
        raise DataError(
            f"{path}: `persons` is {people.dtype} {list(people.shape)}",
            f"Expected numbers or texts [{images}]: whose each image is.",
        )
    return np.unique(people, return_inverse=True)[1].astype(np.int64)


def _numbered(path: Path, labels: NDArray[np.int64]) -> tuple[str, ...]:
    present = np.unique(labels)
    count = int(present[-1]) + 1
    if len(present) < count:
        seen = set(present.tolist())
        empty = islice((label for label in range(count) if label not in seen), 10)
        raise DataError(
            f"{path}: {count - len(present)} of the classes 0..{count - 1} have no image: "
            f"{', '.join(map(str, empty))}",
            "Declare the classes (--classes) to keep a class that has none.",
        )
    return tuple(str(label) for label in range(count))
