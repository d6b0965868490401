"""Gaussian differential privacy: the trade-off curve of telling N(0, 1) from N(mu, 1), a measure of other mechanisms.

Dong, Roth and Su, "Gaussian differential privacy" (arXiv 1905.02383); Gomez et al., "Gaussian DP for reporting
differential privacy guarantees in machine learning" (arXiv 2503.10945). scipy is imported on first use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dpdm_cli.privacy.accounting.claims import round_up

_LARGEST_MU = 1e3


@dataclass(frozen=True, kw_only=True)
class GaussianFit:
    """A mechanism as one number, with what is lost by it; one says nothing without the other.

    Attributes:
        mu: no attacker does better against the mechanism than against one Gaussian of this distance, but for the
            claim's delta. Rounded up at four decimals.
        regret: by how much the Gaussian's error rates are at most below the mechanism's: the smallest shift of the
            mechanism's trade-off curve, in both rates, that brings it below the Gaussian's. 0 where it is one.
    """

    mu: float
    regret: float

    def __post_init__(self) -> None:
        if not (0 <= self.mu <= _LARGEST_MU and 0 <= self.regret <= 1):
            raise ValueError("no mu of Gaussian differential privacy with its regret")


def gaussian_delta(epsilon: Any, mu: Any) -> Any:
    """Delta of a Gaussian of distance mu at each epsilon (Dong et al., corollary 2.13); arrays broadcast."""
    import numpy
    from scipy.special import log_ndtr, ndtr

    far = -epsilon / mu - mu / 2
    return numpy.maximum(ndtr(far + mu) - numpy.exp(epsilon + log_ndtr(far)), 0.0)


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The distance of the Gaussian that costs (epsilon, delta) and no less."""
    from scipy.optimize import brentq

    def excess(log_mu: float) -> float:
        return float(gaussian_delta(epsilon, math.exp(log_mu))) - delta

    return math.exp(brentq(excess, math.log(1e-9), math.log(1e6), xtol=1e-12))


def fitted(epsilons: Sequence[float], deltas: Sequence[float], delta: float) -> GaussianFit | None:
    """The Gaussian that a mechanism is nowhere worse than, down to `delta`, and the regret of saying so.

    Both curves are convex in e^epsilon: between two points the mechanism's lies below its chord and the Gaussian's
    above its tangents, so what holds at the points and where the tangents meet holds everywhere between them.

    In terms of delta the regret, the divergence of Kaissis et al. (arXiv 2406.08918), is the largest
    (delta_mu(epsilon) - delta(epsilon)) / (1 + e^epsilon).

    Args:
        epsilons: from 0 on, rising.
        deltas: of the mechanism there, bounds from above.
        delta: that of a claim; beyond the epsilon where the mechanism falls below it, nothing is asked.

    Returns:
        None where the mechanism does not fall below `delta` by the last epsilon.
    """
    import numpy
    from scipy.optimize import brentq
    from scipy.special import ndtr

    at, found = numpy.asarray(epsilons), numpy.asarray(deltas)
    if found[-1] > delta:
        return None
    until = max(2, int(numpy.argmax(found <= delta)) + 1)
    near, wanted = at[:until], found[:until]
    x = numpy.exp(near)

    def excess(log_mu: float) -> float:
        mu = math.exp(log_mu)
        reached, slope = gaussian_delta(near, mu), -ndtr(-near / mu - mu / 2)
        bend = slope[1:] - slope[:-1]
        with numpy.errstate(all="ignore"):
            meet = (reached[:-1] - reached[1:] + slope[1:] * x[1:] - slope[:-1] * x[:-1]) / bend
        meet = numpy.clip(numpy.where(bend > 0, meet, x[:-1]), x[:-1], x[1:])
        share = (meet - x[:-1]) / (x[1:] - x[:-1])
        chord = wanted[:-1] + share * (wanted[1:] - wanted[:-1])
        tangent = reached[:-1] + slope[:-1] * (meet - x[:-1])
        return float(max((wanted - reached).max(), (chord - tangent).max()))

    lowest, highest = math.log(1e-6), math.log(_LARGEST_MU)
    if excess(highest) > 0:
        return None
    mu = 1e-6 if excess(lowest) <= 0 else math.exp(brentq(excess, lowest, highest, xtol=1e-9))
    mu = round_up(mu * (1 + 1e-8), 4)
    gap = (gaussian_delta(at, mu) - found) / (1 + numpy.exp(at))
    return GaussianFit(mu=mu, regret=round_up(max(0.0, float(gap.max())), 4))
