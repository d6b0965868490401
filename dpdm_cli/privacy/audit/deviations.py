"""How far a count or a sum is from what it should be, in standard deviations of a normal variable."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor


def binomial_z(count: int, trials: int, chance: float) -> float:
    """How rare so many or more, or so few or fewer, are: in standard deviations of a normal variable.

    Exact, so that an event which is hardly ever expected is not blamed for happening once.
    """
    from scipy.stats import binom, norm

    fewer = float(binom.cdf(count, trials, chance))
    more = float(binom.sf(count - 1, trials, chance))
    z = float(norm.isf(min(fewer, more, 0.5)))
    return z if more < fewer else -z


def spread_z(counts: np.ndarray[tuple[int], np.dtype[np.float64]], trials: int) -> float:
    """How far the spread of binomial counts is from what it should be, in standard deviations.

    Given how many there are in all: that is judged by itself, and one or two would tell nothing of their spread.
    """
    q = float(counts.mean()) / trials
    if q in (0.0, 1.0):
        return 0.0
    variance = trials * q * (1 - q)
    statistic = float(((counts - trials * q) ** 2).sum()) / variance
    # Of (X - np)^2 / (npq): mean 1, variance 2 + (1 - 6pq) / (npq); one degree of freedom goes to the mean.
    return (statistic - (len(counts) - 1)) / math.sqrt(
        len(counts) * (2 + max(0.0, 1 - 6 * q * (1 - q)) / variance)
    )


def overlap_z(
    first: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    second: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    q: float,
) -> float:
    """How far the covariance of two masks is from 0, in standard deviations."""
    overlap = float((first * second).sum(dtype=np.float64))
    once = float(first.sum(dtype=np.float64) + second.sum(dtype=np.float64))
    covariance = overlap - q * once + first.size * q * q
    # Where hardly any overlap is expected one or two by chance must not count for much.
    return covariance / math.sqrt(first.size * (q * (1 - q)) ** 2 + 1.0)


def chi_square_z(noise: Tensor) -> float:
    """How far the sum of squares of n standard normal numbers is from chi-square, in standard deviations.

    Wilson and Hilferty's cube root, good in both tails also for small n.
    """
    n = noise.numel()
    ratio = float(noise.square().sum()) / n
    spread = 2 / (9 * n)
    return float((ratio ** (1 / 3) - (1 - spread)) / math.sqrt(spread))
