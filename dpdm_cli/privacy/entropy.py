"""Secret randomness: everything that protects privacy is drawn here, from the operating system's entropy.

There is no seed and no state, so nothing can be repeated, saved, restored or set by accident. A pseudo-random
generator does not suffice: torch's CPU generator keeps 32 bits of its seed, and a noise stream that can be guessed or
drawn twice destroys the guarantee.
"""

from __future__ import annotations

import decimal
import math
import os
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from dpdm_cli.compute.threads import parallel_map

Entropy = Callable[[int], bytes]
"""`entropy(n)` gives n fresh bytes. The package always uses `os.urandom`; tests may inject their own."""

_CHUNK = 1 << 20
_LARGEST_BLOCK = 1 << 15
_CHUNK_OF_PAIRS = 1 << 14  # so that a chunk's words stay in the cache


def bernoulli(
    probability: float, count: int, entropy: Entropy = os.urandom
) -> npt.NDArray[np.int64]:
    """Indices of the successes among `count` independent trials.

    Trials are taken in blocks: one 64-bit word decides how many of a block succeed, and each of these then gets its
    position. So ten million trials with 4,000 successes take as many words as there are blocks, not trials.

    The distribution of the number in a block is exact to a few parts in 2^64, its tail rounded towards fewer: no trial
    succeeds more often than with `probability`, also where float32 would be biased (q near 1e-8).

    Args:
        probability: in [0, 1].
        count: number of trials.

    Returns:
        Ascending indices, int64 [successes].
    """
    size, thresholds = _block(probability)
    blocks = -(-count // size)
    hits = []
    for start in range(0, blocks, _CHUNK):
        words = np.frombuffer(entropy(8 * min(_CHUNK, blocks - start)), dtype=np.uint64)
        successes = np.searchsorted(thresholds, words, side="right")
        first = (start + np.repeat(np.arange(len(words)), successes)) * size
        hits.append(_places(first, size, entropy))
    found = np.concatenate(hits) if hits else np.arange(0)
    return found[found < count]


def secret_key() -> int:
    """63 secret bits for a pseudo-random generator whose draws must stay secret. Keep them in memory only."""
    return int.from_bytes(os.urandom(8), "little") >> 1


@lru_cache(maxsize=16)
def _block(probability: float) -> tuple[int, npt.NDArray[np.uint64]]:
    """Trials in a block, a power of two, and its binomial distribution.

    As thresholds for a 64-bit word: at most k successes for a word below the k-th, with probability P(X <= k) rounded
    up. The last one may be left out where it is 2^64.
    """
    if probability == 0:
        return _LARGEST_BLOCK, np.array([], np.uint64)
    size = min(_LARGEST_BLOCK, 2 ** max(0, math.floor(-2 - math.log2(probability))))
    thresholds = []
    with decimal.localcontext(prec=60):
        q = decimal.Decimal(probability)
        exactly = at_most = (1 - q) ** size
        for k in range(size):
            threshold = math.ceil(at_most * 2**64)
            if threshold >= 2**64:
                break
            thresholds.append(threshold)
            if k + 1 < size:
                exactly *= q / (1 - q) * (size - k) / (k + 1)
                at_most += exactly
    return size, np.array(thresholds, np.uint64)


def _places(first: npt.NDArray[np.int64], size: int, entropy: Entropy) -> npt.NDArray[np.int64]:
    """A place for each success in the block that begins at its `first`, no two alike, ascending.

    Those of one block are any set of so many places with equal probability: `size` is a power of two, and places that
    are taken are drawn again without regard to which they are.
    """

    def drawn(some: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        words = np.frombuffer(entropy(8 * len(some)), dtype=np.uint64)
        return some + (words & np.uint64(size - 1)).astype(np.int64)

    places = drawn(first)
    while True:
        different, kept = np.unique(places, return_index=True)
        if len(different) == len(places):
            return different
        again = np.setdiff1d(np.arange(len(places)), kept)
        places[again] = drawn(first[again])


def standard_normal(
    count: int, entropy: Entropy = os.urandom, workers: int = 1
) -> npt.NDArray[np.float64]:
    """`count` independent draws from N(0, 1) in float64, by the Box-Muller transform, in so many threads.

    How far that is from normal draws, once both are rounded to a grid of g = 2^-20 as the mechanism does, at 10^11
    numbers, in total variation:

    - Below 2^-75 by what the uniform U under the logarithm cannot be. It has 53 significant bits down to 2^-75 and ends
      at 2^-128. So the radius R ends at 13.3, which one pair in 2^128 passes, and its values 2^-128 / (U R) are further
      apart than g for one pair in 2^111.
    - At most 0.0011 by rounding in float64, even if all of its errors fell the same way. With functions right to a unit
      in the last place and u = 2^-53, no number is off by more than u (9 R + 1 / R). So the chance of a cell of the
      grid for a pair is off by a share of at most 4 u (9 R + 1 / R) / g. Its mean square, by E R^2 = 2 and
      E 1/R^2 < 20 (R > 2^-26), is at most 3200 u^2 / g^2: the chi-square divergence of a pair. Those of 5 * 10^10 pairs
      add up, and total variation is at most the root of half of that (Pinsker).
    """
    pairs = -(-count // 2)
    normal = np.empty((2, pairs))

    def draw(start: int) -> None:
        some = min(_CHUNK_OF_PAIRS, pairs - start)
        words = np.frombuffer(entropy(16 * some), dtype=np.uint64).reshape(2, some)
        radius = torch.from_numpy(_uniform(words[0], entropy)).log_().mul_(-2.0).sqrt_()
        # From -pi to pi: the smaller the angle, the less of it is lost to rounding.
        angle = torch.from_numpy(words[1].view(np.int64) * (np.pi * 2.0**-63))
        out = torch.from_numpy(normal[:, start : start + some])
        torch.mul(radius, angle.cos(), out=out[0])
        torch.mul(radius, angle.sin(), out=out[1])

    for _ in parallel_map(draw, range(0, pairs, _CHUNK_OF_PAIRS), workers):
        pass
    return normal.reshape(-1)[:count]


def _uniform(words: npt.NDArray[np.uint64], entropy: Entropy) -> npt.NDArray[np.float64]:
    """A number in (0, 1] that begins with the bits of each word, rounded to 53 significant bits.

    A word whose first 11 bits are zero, one in 2,048, has fewer to give: 64 more are drawn for it. With 53 bits after
    the point, normal draws would end at 8.57.
    """
    uniform = words.astype(np.float64)
    (short,) = np.nonzero(words < np.uint64(1 << 53))
    if len(short):
        more = np.frombuffer(entropy(8 * len(short)), dtype=np.uint64)
        uniform[short] += (more + 1.0) * 2.0**-64
    uniform *= 2.0**-64
    return uniform
