"""Which images of a set are kept apart, to test on what is made of the others."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpdm_cli.data.listing import Listing
from dpdm_cli.errors import DataError, UsageError

_BITS = 64


@dataclass(frozen=True)
class HoldOut:
    """Which part of a set a prepared file is.

    Attributes:
        share: of the images, or of the persons where these are known, that is held out, about.
        seed: what decides which.
        is_held_out: whether this is that part, and not the larger one to train on.
        other: name of the file of the other part.
    """

    share: float
    seed: int
    is_held_out: bool
    other: str


def check_share(share: float) -> None:
    """Refuse a share that is none.

    Raises:
        UsageError: not between 0 and 1.
    """
    if not (math.isfinite(share) and 0 < share < 1):
        raise UsageError(
            f"the share to hold out is between 0 and 1, found {share:g}",
            "for example --hold-out 0.1",
        )


def held_out_path(path: Path) -> Path:
    """Where the smaller part goes."""
    return path.with_name(f"{path.stem}-held-out{path.suffix}")


def held_out(listing: Listing, share: float, seed: int) -> NDArray[np.bool_]:
    """Which images are held out, bool [N].

    Each person, or each image where persons are not known, is decided on by a hash of its own name (of its pixels, in
    an array): a record that is added or removed moves no other one from one part to the other, so that a claim for the
    larger part is one for the whole set as well. Copies of an image in an array stay together.

    Args:
        listing: at least one image.
        share: between 0 and 1.
        seed: any integer.

    Raises:
        DataError: one of the parts would be empty.
    """
    names = _names(listing)
    chosen = np.fromiter((_fraction(name, seed) < share for name in names), bool)
    if listing.persons is not None:
        chosen = chosen[listing.persons]
    if chosen.all() or not chosen.any():
        part = "all" if chosen.all() else "none"
        raise DataError(
            f"{part} of {len(listing):,} images would be held out at a share of {share:g}",
            "Choose another --hold-out or --seed.",
        )
    return chosen


def _names(listing: Listing) -> Iterable[bytes]:
    """What each record is known by."""
    if listing.persons is not None:
        return listing.person_digests
    if isinstance(listing.images, np.ndarray):
        return (np.ascontiguousarray(image).tobytes() for image in listing.images)
    return (os.fsencode("/".join(entry.path)) for entry in listing.images)


def _fraction(name: bytes, seed: int) -> float:
    """Uniform in [0, 1)."""
    key = str(seed).encode()[:64]
    number = int.from_bytes(blake2b(name, digest_size=_BITS // 8, key=key).digest())
    return float(number / 2**_BITS)
