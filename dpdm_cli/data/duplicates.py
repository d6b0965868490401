"""Images that equal an earlier one, found with 16 bytes for each."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from dpdm_cli.data.decoding import Pixels

Digests = NDArray[np.uint64]

PAIRS = 20
"""This many are named."""


def digests_of(images: Pixels) -> Digests:
    """A digest of each image, uint64 [N, 2].

    Args:
        images: uint8 [N, C, H, W], contiguous.
    """
    joined = b"".join(blake2b(image, digest_size=16).digest() for image in images)
    return np.frombuffer(joined, np.uint64).reshape(-1, 2)


def repeated(digests: Digests) -> tuple[int, list[tuple[int, int]]]:
    """How many images equal an earlier one, and the first 20 of them, each with the first it equals.

    Args:
        digests: uint64 [N, 2], one row for each image.

    Returns:
        the count, and pairs (image, earlier image), sorted.
    """
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal ones stay in their order
    # One column at a time, so that no sorted copy of all of them is made.
    same = np.ones(max(len(order) - 1, 0), bool)
    for column in digests.T:
        ordered = column[order]
        same &= ordered[1:] == ordered[:-1]
    later = order[1:][same]
    place = np.arange(1, len(order))[same]
    firsts = np.concatenate([[0], np.flatnonzero(~same) + 1])
    chosen = np.argsort(later)[:PAIRS]
    first = order[firsts[np.searchsorted(firsts, place[chosen], side="right") - 1]]
    return len(later), list(zip(later[chosen].tolist(), first.tolist(), strict=True))
