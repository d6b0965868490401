"""Epsilon of T Poisson-subsampled Gaussian steps by three independent bounds: RDP, PRV and PLD.

Each function takes numbers that `PrivacyPlan` has already validated and returns an upper bound on
epsilon, or raises `NotComputable` when the accountant's answer would be wrong or would take longer
than seconds; that is decided beforehand, from the size of what it would have to compute. Knows
nothing of plans, targets and claims. Opacus and dp-accounting are imported on first use.
"""

from __future__ import annotations

import functools
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

FRACTIONAL_ORDERS = tuple(1 + x / 10 for x in range(1, 100))
ORDERS: tuple[float, ...] = (*FRACTIONAL_ORDERS, *range(12, 512))
"""Renyi orders of every claim; binomials of orders past 1000 overflow."""
OPACUS_ORDERS: tuple[float, ...] = (*FRACTIONAL_ORDERS, *range(12, 64))
PAPER_ORDERS: tuple[float, ...] = (*FRACTIONAL_ORDERS, *range(12, 128))

MIN_SIGMA = 0.01
MAX_SIGMA = 1e6
MAX_PRV_EPSILON = 50.0
MAX_PRV_POINTS = 4_000_000
MIN_PRV_ERROR = 1e-6
MAX_PRV_HALF_WIDTH = 200.0
MAX_PLD_EPSILON = 200.0
MAX_PLD_POINTS = 40_000
MAX_PLD_COMPOSED_POINTS = 1_000_000
MANY_PLD_STEPS = 100_000
MIN_PLD_INTERVAL = 1e-7


class NotComputable(Exception):
    """The accountant cannot give a reliable answer; the text says why, as part of a sentence."""


Part = tuple[float, float, int]
"""(q, sigma, steps): so many steps at one sampling rate and noise."""

LossOf = Callable[[float, float, float], Any]
"""(q, sigma, interval): dp-accounting's `PrivacyLossDistribution` of one step on a grid of that interval."""


def composed_rdp_epsilon(
    parts: Sequence[Part], delta: float, orders: tuple[float, ...] = ORDERS
) -> float:
    """The RDP bound of all parts together, at least 0; infinite where RDP gives none.

    Any order gives a valid bound, so the best is found by a pattern search over a coarse grid
    of orders instead of evaluating all of them; integer orders cost up to 3 ms each.

    Sources: Mironov, Talwar, Zhang 2019 (arXiv 1908.10530), by Opacus' `compute_rdp`, and the
    conversion of Balle et al. 2020 (arXiv 1905.09982), Theorem 21.
    """

    def bound(index: int) -> float:
        order = orders[index]
        rdp = sum(rdp_of_one_step(q, sigma, order) * steps for q, sigma, steps in parts)
        return rdp - math.log(delta * order) / (order - 1) + math.log1p(-1 / order)

    coarse = [*range(0, min(150, len(orders)), 8), *range(150, len(orders), 32), len(orders) - 1]
    best = min(coarse, key=bound)
    stride = 16
    while stride:
        near = [best + step for step in (-stride, stride) if 0 <= best + step < len(orders)]
        closer = min(near, key=bound)
        if bound(closer) < bound(best):
            best = closer
        else:
            stride //= 2
    return max(0.0, bound(best))


@lru_cache(maxsize=200_000)
def rdp_of_one_step(q: float, sigma: float, order: float) -> float:
    """RDP of one step at one order; infinite where it cannot be computed.

    Opacus sums a series for fractional orders whose length grows with sigma near q = 1/2 (minutes
    at sigma = 10^4). There the chord between the neighbouring integer orders is used: it is an
    upper bound, because (order - 1) * RDP(order) is convex and 0 at order 1.
    """
    if sigma < MIN_SIGMA:
        return math.inf
    sigma = min(sigma, MAX_SIGMA)
    if not float(order).is_integer() and q < 1:
        logit = abs(math.log(1 / q - 1))
        if sigma > 20 and sigma * logit < 8:
            below = math.floor(order)
            low = (below - 1) * rdp_of_one_step(q, sigma, below) if below > 1 else 0.0
            high = below * rdp_of_one_step(q, sigma, below + 1)
            return ((below + 1 - order) * low + (order - below) * high) / (order - 1)
    from opacus.accountants.analysis.rdp import compute_rdp

    try:
        rdp = float(compute_rdp(q=q, noise_multiplier=sigma, steps=1, orders=[order])[0])
    except (ArithmeticError, ValueError):
        return math.inf
    return math.inf if math.isnan(rdp) else max(0.0, rdp)


def composed_prv_epsilon(parts: Sequence[Part], delta: float, eps_error: float) -> float:
    """The PRV upper bound: the estimate plus its error, as Opacus' PRVAccountant returns it.

    Composed here from Opacus' parts and not by its accountant, which would compute the domain's
    width from scratch, at unbounded cost near q = 1/2.

    Source: Gopi, Lee, Wutschitz 2021 (arXiv 2106.02848).

    Args:
        eps_error: the error; widened where the grid would be too large. A wider one gives a larger,
            still valid bound.

    Raises:
        NotComputable: no grid is small enough, floating point would dominate, the RDP bound passes
            50, or the numbers came out unusable.
    """
    half_width, mesh, eps_error = prv_grid(parts, delta, eps_error)

    from opacus.accountants.analysis.prv import (
        Domain,
        PoissonSubsampledGaussianPRV,
        TruncatedPrivacyRandomVariable,
        compose_heterogeneous,
        discretize,
    )
    from scipy.fft import next_fast_len

    # Opacus makes it 2 (half_width / mesh, rounded up) + 2 points; a few more may transform four times as fast.
    half_width = mesh * (next_fast_len(math.ceil(half_width / mesh) + 1) - 1.5)

    try:
        with quiet():
            domain = Domain.create_aligned(-half_width, half_width, mesh)
            losses = [
                TruncatedPrivacyRandomVariable(
                    PoissonSubsampledGaussianPRV(q, sigma), domain.t_min, domain.t_max
                )
                for q, sigma, _ in parts
            ]
            composed = compose_heterogeneous(
                [discretize(loss, domain) for loss in losses], [steps for *_, steps in parts]
            )
            allowed = delta - _rounding(sum(steps for *_, steps in parts))
            upper = float(composed.compute_epsilon(allowed, delta / 1000, eps_error)[2])
    except (ArithmeticError, ValueError, RuntimeError, IndexError) as error:
        raise NotComputable(str(error) or type(error).__name__) from error
    if not math.isfinite(upper) or upper < 0:
        raise NotComputable(f"it answered {upper}")
    return upper


class PrvGrid(NamedTuple):
    """PRV's grid of losses: from -half_width to half_width by `mesh`; its bound errs by up to 2 `eps_error`."""

    half_width: float
    mesh: float
    eps_error: float


def prv_grid(parts: Sequence[Part], delta: float, wanted: float) -> PrvGrid:
    """The grid of `composed_prv_epsilon`: for the error `wanted`, or for the least that keeps it within seconds.

    Takes milliseconds itself.

    Source: Gopi et al. 2021, remark 5.6 and theorem 5.5, with Opacus' margin of 3.

    Raises:
        NotComputable: `composed_prv_epsilon` would refuse.
    """
    steps = sum(steps for *_, steps in parts)
    _check_floating_point(steps, delta)
    rdp = composed_rdp_epsilon(parts, delta)
    if rdp > MAX_PRV_EPSILON:
        raise NotComputable(f"the RDP bound is {rdp:.3g}, beyond {MAX_PRV_EPSILON:g}")
    if max(sigma for _, sigma, _ in parts) > MAX_SIGMA:
        raise NotComputable(f"sigma is above {MAX_SIGMA:g}")
    if wanted < MIN_PRV_ERROR:
        raise NotComputable(f"epsilon is practically 0: RDP says {rdp:.3g}")
    delta_error = delta / 1000
    composed = composed_rdp_epsilon(parts, delta_error / 4, OPACUS_ORDERS)
    single = max(
        composed_rdp_epsilon(((q, sigma, 1),), delta_error / (8 * steps), OPACUS_ORDERS)
        for q, sigma, _ in parts
    )
    half_width = max(composed, single, wanted) + 3
    errors_per_mesh = math.sqrt(steps * math.log(12 / delta_error) / 2)
    eps_error = max(wanted, errors_per_mesh * 2 * half_width / MAX_PRV_POINTS)
    # An error beyond RDP's whole bound would leave nothing to gain.
    if not half_width <= MAX_PRV_HALF_WIDTH or eps_error > max(wanted, rdp):
        points = errors_per_mesh * 2 * half_width / wanted
        raise NotComputable(f"its grid would have {points:.2g} points")
    return PrvGrid(half_width, eps_error / errors_per_mesh, eps_error)


def composed_pld_epsilon(parts: Sequence[Part], delta: float, interval: float = 1e-4) -> float:
    """The PLD bound of Google's dp-accounting, pessimistic by construction.

    Args:
        interval: discretisation of the privacy loss; widened where the grid would be too large.
            A wider one gives a larger, still valid bound.

    Raises:
        NotComputable: as for `composed_prv_epsilon`.
    """
    return composed_loss_epsilon(parts, delta, pld_interval(parts, delta, interval), _gaussian_loss)


def composed_pld_deltas(
    parts: Sequence[Part], epsilons: Sequence[float], delta: float, interval: float = 1e-4
) -> list[float]:
    """Delta at each epsilon of all parts together, by PLD, never below the exact one.

    Args:
        epsilons: at least 0, rising.
        delta, interval: see `composed_pld_epsilon`; delta is that of a claim, and bounds what rounding may do.

    Raises:
        NotComputable: as for `composed_pld_epsilon`.
    """
    together = _composed_loss(parts, pld_interval(parts, delta, interval), _gaussian_loss)
    slack = _rounding(sum(steps for *_, steps in parts))
    found = [
        max(pair) + slack
        for pair in zip(*(_hockey_sticks(pmf, epsilons) for pmf in _pmfs(together)), strict=True)
    ]
    if not all(math.isfinite(value) and value >= 0 for value in found):
        raise NotComputable(f"it answered {found}")
    return [min(1.0, value) for value in found]


def _pmfs(loss: Any) -> list[Any]:
    """dp-accounting's distributions of the loss when a record is removed and when one is added."""
    return [loss._pmf_remove.to_dense_pmf(), loss._pmf_add.to_dense_pmf()]


def _hockey_sticks(pmf: Any, epsilons: Sequence[float]) -> list[float]:
    """The mass at infinity plus the sum of p (1 - e^(epsilon - loss)) over losses above epsilon, for each epsilon.

    That is dp-accounting's `get_delta_for_epsilon`, which walks over the losses in Python. Here the losses between
    two epsilons are summed at once and those above are carried over. Nothing is subtracted, so that every
    delta is as exact as a sum of positive numbers.

    Args:
        pmf: dense.
        epsilons: rising.
    """
    import numpy

    losses = (numpy.arange(pmf.size) + pmf._lower_loss) * pmf._discretization
    at = numpy.asarray(epsilons, float)
    # Segment k holds the losses above epsilon k, up to the next.
    first = numpy.searchsorted(losses, at, side="right")
    kept, mass = losses[first[0] :], pmf._probs[first[0] :]
    segment = numpy.repeat(numpy.arange(len(at)), numpy.diff(first, append=pmf.size))
    nearer = at[segment] - kept
    above = numpy.bincount(segment, -numpy.expm1(nearer) * mass, len(at))
    tilted = numpy.bincount(segment, numpy.exp(nearer) * mass, len(at))

    deltas, delta, carried = [], float(pmf._infinity_mass), 0.0
    for k in reversed(range(len(at))):
        step = float(at[k + 1] - at[k]) if k + 1 < len(at) else 0.0
        delta += float(above[k]) - math.expm1(-step) * carried
        carried = float(tilted[k]) + math.exp(-step) * carried
        deltas.append(delta)
    return deltas[::-1]


def _gaussian_loss(q: float, sigma: float, interval: float) -> Any:
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    return from_gaussian_mechanism(sigma, value_discretization_interval=interval, sampling_prob=q)


def _composed_loss(parts: Sequence[Part], interval: float, loss_of: LossOf) -> Any:
    """dp-accounting's distribution of all steps together. Raises NotComputable."""
    try:
        with quiet():
            losses = [loss_of(q, sigma, interval).self_compose(steps) for q, sigma, steps in parts]
            return functools.reduce(lambda one, other: one.compose(other), losses)
    except (ArithmeticError, ValueError, RuntimeError, IndexError, MemoryError) as error:
        raise NotComputable(str(error) or type(error).__name__) from error


def composed_loss_epsilon(
    parts: Sequence[Part], delta: float, interval: float, loss_of: LossOf
) -> float:
    """Epsilon of steps whose privacy loss dp-accounting knows, never below that of the exact composition.

    dp-accounting rounds losses up, but computes in double precision. What rounding may take from
    the answer is added to it: epsilon is that of a delta smaller by the noise of the Fourier
    transforms (see `_rounding`), and grows until that delta is truly reached, because the library
    finds it by a walk of up to a million additions.

    Raises:
        NotComputable: rounding would dominate, or the numbers came out unusable.
    """
    steps = sum(steps for *_, steps in parts)
    _check_floating_point(steps, delta)
    allowed = delta - _rounding(steps)
    together = _composed_loss(parts, interval, loss_of)
    try:
        with quiet():
            upper = float(together.get_epsilon_for_delta(allowed))
            step = 1e-9 * max(1.0, upper)
            while math.isfinite(upper) and together.get_delta_for_epsilon(upper) > allowed:
                upper, step = upper + step, 2 * step
    except (ArithmeticError, ValueError, RuntimeError, IndexError, MemoryError) as error:
        raise NotComputable(str(error) or type(error).__name__) from error
    if not math.isfinite(upper) or upper < 0:
        raise NotComputable(f"it answered {upper}")
    return upper


def pld_interval(parts: Sequence[Part], delta: float, wanted: float) -> float:
    """The discretisation `composed_pld_epsilon` uses: `wanted`, or what keeps it within seconds.

    A step's loss is log(1 + q (e^z - 1)); its grid spans z within ten standard deviations. The
    composed grid spans the Chernoff bounds that dp-accounting takes at a tail mass of 10^-15, at
    orders of at least 1 / spread. Up to 1000 points a step it also raises their number to the
    power of the steps, as a whole number; past 10^5 steps that needs a grid of more points.

    Raises:
        NotComputable: `composed_pld_epsilon` would refuse.
    """
    _check_floating_point(sum(steps for *_, steps in parts), delta)
    rdp = composed_rdp_epsilon(parts, delta)
    if rdp > MAX_PLD_EPSILON:
        raise NotComputable(f"the RDP bound is {rdp:.3g}, beyond {MAX_PLD_EPSILON:g}")
    if max(sigma for _, sigma, _ in parts) > MAX_SIGMA:
        raise NotComputable(f"sigma is above {MAX_SIGMA:g}")
    composed, widest, narrowest_of_many = 0.0, 0.0, math.inf
    for q, sigma, steps in parts:
        z = 10 / sigma + 0.5 / sigma**2
        upper = math.log1p(q * math.expm1(z)) if z < 700 else z + math.log(q)
        spread = upper + (-math.log1p(q * math.expm1(-z)) if q < 1 else z)
        variance = min(spread**2, q**2 * math.expm1(min(700.0, 1 / sigma**2))) * steps
        order = max(math.sqrt(70 / variance), 1 / spread)
        composed += order * variance + 70 / order
        widest = max(widest, spread)
        if steps > MANY_PLD_STEPS:
            narrowest_of_many = min(narrowest_of_many, spread)
    if math.isfinite(narrowest_of_many):
        wanted = max(min(wanted, narrowest_of_many / 1500), MIN_PLD_INTERVAL)
    interval = max(wanted, widest / MAX_PLD_POINTS, composed / MAX_PLD_COMPOSED_POINTS)
    if interval > narrowest_of_many / 1200:
        raise NotComputable("so many steps of such small losses need too fine a grid")
    return interval


def _rounding(steps: int) -> float:
    """What rounding may take from a delta that comes from a `steps`-th power in Fourier space.

    Against the closed form (q = 1) and against Fourier transforms in long double (q < 1), over 620
    random plans, it took up to 0.22 and 1.21 steps * 2^-52; with fewer than ten steps up to 2^-49.
    """
    return 4 * (steps + 2) * sys.float_info.epsilon


def _check_floating_point(steps: int, delta: float) -> None:
    """Refuse a delta in the rounding noise: at 10^-12 and 10^4 steps PRV and PLD fall below the truth."""
    if steps * sys.float_info.epsilon > delta / 100:
        raise NotComputable(
            f"delta = {delta:g} is within the rounding error of {steps} steps in double precision"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings about log(0), omitted orders and the like: the result is checked instead."""
    import numpy

    remarks = logging.getLogger("absl")
    level = remarks.level
    with warnings.catch_warnings(), numpy.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        remarks.setLevel(logging.ERROR)
        try:
            yield
        finally:
            remarks.setLevel(level)
