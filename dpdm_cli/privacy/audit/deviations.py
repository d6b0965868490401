"""How far a count or a sum is from what it should be, in standard deviations of a normal variable."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dpdm_cli.privacy.audit.findings import Z_LIMIT

_FURTHEST = 1000  # distances, and half of them all: to bound the time


def limit_of_worst(many: int) -> float:
    """What the largest of so many deviations passes as rarely as a single one passes `Z_LIMIT`."""
    from scipy.stats import norm

    return float(norm.isf(norm.sf(Z_LIMIT) / max(1, many)))


def binomial_z(count: int, trials: int, chance: float) -> float:
    """How rare so many or more, or so few or fewer, are: in standard deviations of a normal variable.

    Exact, so that a rare event does not count as a failure for happening once.
    """
    return float(_binomial_zs(np.array([count]), np.array([trials]), chance)[0])


def _binomial_zs(
    counts: npt.NDArray[np.int64], trials: npt.NDArray[np.int64], chance: float
) -> npt.NDArray[np.float64]:
    from scipy.stats import binom, norm

    fewer, more = binom.cdf(counts, trials, chance), binom.sf(counts - 1, trials, chance)
    z: npt.NDArray[np.float64] = norm.isf(np.minimum(np.minimum(fewer, more), 0.5))
    return np.where(more < fewer, z, -z)


def spread_z(counts: np.ndarray[tuple[int], np.dtype[np.float64]], trials: int) -> float:
    """How far the spread of binomial counts is from what it should be, in standard deviations.

    Conditional on the total, which is judged separately; one or two would say nothing about the spread.
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


def together_z(
    group: npt.NDArray[np.int64],
    place: npt.NDArray[np.int64],
    groups: int,
    places: int,
    chance: float,
) -> tuple[float, int, int]:
    """Whether marks, put down independently, meet in a group as often as that, for every distance between places.

    Counted are pairs of places i and i + d by whether i // d is even: no two such pairs share a place, so that the
    count is binomial.

    Args:
        group, place: of each mark, no two alike, ascending by group and, within it, by place.
        groups, places: how many of each; with probability `chance` a place of a group has a mark.

    Returns:
        the worst deviation, in standard deviations; its distance; of how many it is the worst.
    """
    furthest = min(places - 1, _FURTHEST)
    half = places // 2
    met = np.zeros(2 * (furthest + 1), dtype=np.int64)
    keys = group * (2 * places) + place  # marks of two groups are further apart than any of one
    for later in range(1, len(keys)):
        apart = keys[later:] - keys[:-later]
        near = apart <= furthest
        if not near.any():
            break
        distance = apart[near]
        odd = place[:-later][near] // distance % 2
        met += np.bincount(2 * distance + odd, minlength=len(met))
    distances = np.repeat(np.arange(1, furthest + 1), 2)
    rounds, rest = np.divmod(places - distances, 2 * distances)
    odd = np.arange(len(distances)) % 2
    pairs = rounds * distances + np.clip(rest - odd * distances, 0, distances)
    counts = np.append(met[2:], np.isin(keys[place < half] + half, keys).sum())
    z = _binomial_zs(counts, groups * np.append(pairs, half), chance * chance)
    worst = int(np.abs(z).argmax())
    return float(z[worst]), int(np.append(distances, half)[worst]), len(z)


def chi_square_z(noise: Tensor) -> float:
    """How far the sum of squares of n standard normal numbers is from chi-square, in standard deviations."""
    return _wilson_hilferty(float(noise.square().sum()), noise.numel())


def cells_z(counts: Tensor) -> float:
    """How far counts [cells] are from those of equally likely cells: Pearson's chi-square."""
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
    part = 1 << max(0, len(series).bit_length() - 4)
    length = len(series) // part * part  # has no large prime factors: fast to transform
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
