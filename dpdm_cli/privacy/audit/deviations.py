"""How far a count or a sum is from what it should be, in standard deviations of a normal variable."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dpdm_cli.privacy.audit.findings import Z_LIMIT


def limit_of_worst(many: int) -> float:
    """What the largest of so many deviations passes as rarely as a single one passes `Z_LIMIT`."""
    from scipy.stats import norm

    return float(norm.isf(norm.sf(Z_LIMIT) / max(1, many)))


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
    """How far the sum of squares of n standard normal numbers is from chi-square, in standard deviations."""
    return _wilson_hilferty(float(noise.square().sum()), noise.numel())


def cells_z(counts: Tensor) -> float:
    """How far counts [cells] are from those of cells that are as likely as each other: Pearson's chi-square."""
    expected = float(counts.sum()) / len(counts)
    statistic = float((counts.double() - expected).square().sum()) / expected
    return _wilson_hilferty(statistic, len(counts) - 1)


def count_z(count: float, mean: float, variance: float) -> float:
    """How rare a number of coincidences is, of Poisson's law where its variance is its mean, else stretched to it."""
    from scipy.stats import norm, poisson

    stretch = variance / mean
    fewer = float(poisson.cdf(count / stretch, mean / stretch))
    more = float(poisson.sf(count / stretch - 1, mean / stretch))
    z = float(norm.isf(min(fewer, more, 0.5)))
    return z if more < fewer else -z


def lags_z(series: Tensor) -> tuple[float, int, int]:
    """The worst correlation of a series [n] with itself, shifted round by any number of places.

    Returns:
        how far from 0 it is, in standard deviations; by how many places; of how many it is the worst.
    """
    length = len(series) - len(series) % (
        1 << max(0, len(series).bit_length() - 6)
    )  # fast to transform
    centred = series[:length] - series[:length].mean()
    powers = torch.fft.rfft(centred).abs().square()
    sums = torch.fft.irfft(powers, n=length)[: length // 2 + 1]
    deviations = sums * (math.sqrt(length) / float(sums[0]))
    if length % 2 == 0:
        deviations[-1] /= math.sqrt(2)  # each product is counted twice
    worst = int(deviations[1:].abs().argmax()) + 1
    return float(deviations[worst]), worst, len(deviations) - 1


def _wilson_hilferty(statistic: float, freedom: int) -> float:
    """A chi-square statistic in standard deviations of a normal variable: by its cube root, good in both tails."""
    spread = 2 / (9 * freedom)
    return float(((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))
