"""Secret randomness: everything that protects privacy is drawn here, from the operating system's entropy.

There is no seed and no state, so nothing can be repeated, saved, restored or set by accident. A pseudo-random
generator would not do: torch's CPU generator keeps 32 bits of its seed, and a noise stream that can be guessed or
drawn twice takes the guarantee with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch

from dpdm_cli.parallel import parallel_map

Entropy = Callable[[int], bytes]
"""`entropy(n)` gives n fresh bytes. The package always uses `os.urandom`; tests may inject their own."""

_CHUNK = 1 << 20
_CHUNK_OF_PAIRS = 1 << 14  # so that a chunk's words stay in the cache


def bernoulli(
    probability: float, count: int, entropy: Entropy = os.urandom
) -> npt.NDArray[np.int64]:
    """Indices of the successes among `count` independent trials.

    A trial succeeds when a 64-bit word falls below `probability` * 2^64, rounded down: exact to 2^-64 and never
    above `probability`, also where float32 would be biased (q near 1e-8).

    Args:
        probability: in [0, 1].
        count: number of trials.

    Returns:
        Ascending indices, int64 [successes].
    """
    threshold = int(Fraction(probability) * 2**64)
    if threshold >= 2**64:
        return np.arange(count)
    hits = []
    for start in range(0, count, _CHUNK):
        words = np.frombuffer(entropy(8 * min(_CHUNK, count - start)), dtype=np.uint64)
        hits.append(np.flatnonzero(words < np.uint64(threshold)) + start)
    return np.concatenate(hits) if hits else np.arange(0)


def standard_normal(
    count: int, entropy: Entropy = os.urandom, workers: int = 1
) -> npt.NDArray[np.float64]:
    """`count` independent draws from N(0, 1) in float64, by the Box-Muller transform, in so many threads."""
    pairs = -(-count // 2)
    normal = np.empty((2, pairs))

    def draw(start: int) -> None:
        some = min(_CHUNK_OF_PAIRS, pairs - start)
        words = np.frombuffer(entropy(16 * some), dtype=np.uint64).reshape(2, some)
        # In (0, 1]: the logarithm stays finite.
        uniform = torch.from_numpy((words >> np.uint64(11)) + 1.0).mul_(2.0**-53)
        radius, angle = uniform[0].log_().mul_(-2.0).sqrt_(), uniform[1].mul_(2.0 * np.pi)
        out = torch.from_numpy(normal[:, start : start + some])
        torch.mul(radius, angle.cos(), out=out[0])
        torch.mul(radius, angle.sin(), out=out[1])

    for _ in parallel_map(draw, range(0, pairs, _CHUNK_OF_PAIRS), workers):
        pass
    return normal.reshape(-1)[:count]
