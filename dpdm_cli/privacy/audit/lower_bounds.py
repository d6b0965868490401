"""Lower bounds on epsilon from a set of scores: three of them, from the fewest assumptions to the most.

Each takes scores of canaries that took part and of those that did not, higher for having taken part, and returns an
epsilon that the mechanism exceeds except with probability `risk`. A lower bound is evidence against a claim; it does
not measure the privacy.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from dpdm_cli.privacy.accounting.accountants import quiet

Scores = npt.NDArray[np.float64]

_MOST = 200.0  # epsilon
_PRECISION = 1e-9


def one_run(taken: Scores, left_out: Scores, delta: float, risk: float) -> float:
    """Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846, theorem 5.2): no assumption about the scores.

    All canaries were put in or left out by independent fair coins. The same number of guesses is made at both ends; the
    best of a few numbers is taken, each at its share of the risk. Cannot exceed about ln(m / 8).
    """
    scores = np.concatenate([taken, left_out])
    is_in = np.concatenate([np.ones(len(taken), bool), np.zeros(len(left_out), bool)])
    order = np.lexsort((is_in, -scores))  # of equal scores those come first whose guess is wrong
    shares = [share for share in (0.02, 0.05, 0.1, 0.25, 0.5) if len(scores) * share >= 1]
    best = 0.0
    for share in shares:
        each = int(len(scores) * share)
        right = int(is_in[order[:each]].sum() + (~is_in[order[-each:]]).sum())
        best = max(best, _guessing(len(scores), 2 * each, right, delta, risk / len(shares)))
    return best


def _guessing(canaries: int, guesses: int, right: int, delta: float, risk: float) -> float:
    """The largest epsilon that would make so many right guesses less likely than `risk`."""
    from scipy.stats import binom

    def too_likely(epsilon: float) -> float:
        chance = 1 / (1 + math.exp(-epsilon))
        tail = float(binom.sf(right - 1, guesses, chance))
        below = binom.pmf(np.arange(right - 1, -1, -1), guesses, chance)
        worst = float((np.cumsum(below) / np.arange(1, right + 1)).max(initial=0.0))
        return tail + 2 * canaries * delta * worst - risk

    return _root_from_below(too_likely, _MOST)


def clopper_pearson(
    taken: Scores, left_out: Scores, threshold: float, delta: float, risk: float
) -> float:
    """Nasr et al. 2023 (arXiv 2302.07956): error rates at a threshold fixed beforehand, as of a Gaussian mechanism.

    Assumes that the trade-off between the two errors is Gaussian, as it is for a sum of noisy scores.
    """
    from scipy.stats import beta, norm

    found = int((taken > threshold).sum())
    false = int((left_out > threshold).sum())
    tpr = 0.0 if not found else float(beta.ppf(risk / 2, found, len(taken) - found + 1))
    fpr = (
        1.0
        if false == len(left_out)
        else float(beta.ppf(1 - risk / 2, false + 1, len(left_out) - false))
    )
    return gaussian_epsilon(float(norm.ppf(tpr) - norm.ppf(fpr)), delta)


def gaussian_mean(taken: Scores, left_out: Scores, delta: float, risk: float) -> float:
    """The distance between the two means in standard deviations, from below, as of a Gaussian mechanism.

    Assumes normal scores of one variance: then the t statistic is non-central t, and its quantiles bound the distance.
    Infinite where the scores do not vary at all.
    """
    from scipy.stats import nct

    n, m = len(taken), len(left_out)
    if n + m < 4 or not n or not m:
        return 0.0
    pooled = float(((taken - taken.mean()) ** 2).sum() + ((left_out - left_out.mean()) ** 2).sum())
    difference = float(taken.mean() - left_out.mean())
    if difference <= 0:
        return 0.0
    degrees = n + m - 2
    scale = math.sqrt(1 / n + 1 / m)
    deviation = math.sqrt(pooled / degrees)
    if deviation < 1e-6 * difference:
        return math.inf
    statistic = difference / (deviation * scale)

    def too_likely(distance: float) -> float:
        """How much likelier than the risk so large a statistic would be at that distance."""
        with quiet():
            tail = float(nct.sf(statistic, degrees, distance / scale))
        return tail - risk if math.isfinite(tail) else distance / scale - statistic / 2

    return gaussian_epsilon(_root_from_below(too_likely, statistic * scale), delta)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of a mu-GDP mechanism at delta (Balle and Wang 2018, arXiv 1805.06530, theorem 8); at most 200."""
    from dp_accounting import get_epsilon_gaussian

    if not mu > 0:
        return 0.0
    return math.inf if math.isinf(mu) else min(_MOST, get_epsilon_gaussian(1 / mu, delta))


def _root_from_below(rising: Callable[[float], float], high: float) -> float:
    """Where between 0 and `high` a rising function passes 0, or the end that is nearer to that; never above it."""
    from scipy.optimize import brentq

    if rising(0.0) >= 0:
        return 0.0
    if rising(high) <= 0:
        return high
    return max(0.0, float(brentq(rising, 0.0, high, xtol=_PRECISION)) - 2 * _PRECISION)
