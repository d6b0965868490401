"""What somebody may find out at most who asks whether one record was among the training records.

Epsilon and delta allow more than the plan does: two plans with one (epsilon, delta) may differ by 12 points in how
often a guess is right (Gomez et al., "(epsilon, delta) considered harmful", arXiv 2503.10945). So these bounds are
those of the plan's own privacy loss distribution, against the strongest attacker that differential privacy knows: one
who sees every step and knows all other records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from dpdm_cli.privacy.accounting.accountants import NotComputable, Part, composed_pld_deltas
from dpdm_cli.privacy.accounting.claims import accounted_parts, claim, round_up
from dpdm_cli.privacy.accounting.gaussian_dp import GaussianFit, fitted
from dpdm_cli.privacy.plan import PrivacyPlan

FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)

_EPSILONS = tuple(
    [i / 1000 for i in range(500)]
    + [0.5 + i / 100 for i in range(950)]
    + [10 + i / 50 for i in range(1501)]
)
"""Where the trade-off curve is touched by a line: slopes e^0 to e^40. Fewer would give larger, still valid bounds."""


@dataclass(frozen=True, kw_only=True)
class AttackRisk:
    """Upper bounds for a membership inference attack on one record, rounded up at four decimals.

    Attributes:
        guess: how often a guess is right when the record was there in half of all cases; 0.5 is blind guessing.
        true_positive_rates: by false positive rate, how often a record that was there is found out.
    """

    guess: float
    true_positive_rates: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        rates = self.true_positive_rates
        if tuple(rate for rate, _ in rates) != FALSE_POSITIVE_RATES:
            raise ValueError("other false positive rates than are stated")
        if not all(0.0 <= bound <= 1.0 for _, bound in rates) or not 0.5 <= self.guess <= 1.0:
            raise ValueError("no bounds of an attack")


def plan_risk(plan: PrivacyPlan) -> AttackRisk:
    """The risk after all steps of a plan; that of its claim's epsilon where PLD has no answer.

    Raises:
        PrivacyError: see `claim`.
    """
    try:
        return attack_risk(accounted_parts(plan), plan.delta)
    except NotComputable:
        return risk_of_epsilon(claim(plan).epsilon, plan.delta)


def plan_fit(plan: PrivacyPlan) -> GaussianFit | None:
    """Mu of Gaussian differential privacy after all steps of a plan, and its regret; None where PLD has no answer."""
    try:
        return _fit(accounted_parts(plan), plan.delta)
    except NotComputable:
        return None


@lru_cache(maxsize=256)
def attack_risk(parts: tuple[Part, ...], delta: float) -> AttackRisk:
    """The risk of releases that are all published, from their privacy loss distribution.

    For every epsilon, an attacker's true positive rate t and false positive rate f satisfy
    t <= e^epsilon f + delta(epsilon) and 1 - f <= e^epsilon (1 - t) + delta(epsilon) (Kairouz, Oh and Viswanath, ICML
    2015, theorem 2.1); the guess at even odds is right with probability (1 + t - f) / 2 <= (1 + delta(0)) / 2.

    Args:
        parts: (q, sigma, steps), see `PrivacyPlan.parts`.
        delta: that of the claim; it decides how fine the distribution is computed.

    Raises:
        NotComputable: PLD has no answer for these releases.
    """
    deltas = _deltas(parts, delta)
    return AttackRisk(
        guess=round_up(min(1.0, (1 + deltas[0]) / 2), 4),
        true_positive_rates=tuple(
            (rate, round_up(_true_positive_rate(rate, deltas), 4)) for rate in FALSE_POSITIVE_RATES
        ),
    )


@lru_cache(maxsize=256)
def _fit(parts: tuple[Part, ...], delta: float) -> GaussianFit | None:
    return fitted(_EPSILONS, _deltas(parts, delta), delta)


@lru_cache(maxsize=256)
def _deltas(parts: tuple[Part, ...], delta: float) -> list[float]:
    """Delta at each of `_EPSILONS`."""
    return composed_pld_deltas(parts, _EPSILONS, delta)


def risk_of_epsilon(epsilon: float, delta: float) -> AttackRisk:
    """The risk that (epsilon, delta) alone allow, where nothing is known of the mechanism (Kairouz et al., as above).

    The curve of what they allow has two lines, of slopes e^epsilon and e^-epsilon.
    """
    tangent = math.exp(min(epsilon, 700.0))

    def true_positive_rate(rate: float) -> float:
        return min(1.0, tangent * rate + delta, 1 - max(0.0, 1 - rate - delta) / tangent)

    return AttackRisk(
        guess=round_up(min(1.0, (tangent + delta) / (1 + tangent)), 4),
        true_positive_rates=tuple(
            (rate, round_up(true_positive_rate(rate), 4)) for rate in FALSE_POSITIVE_RATES
        ),
    )


def _true_positive_rate(rate: float, deltas: Sequence[float]) -> float:
    bounds = [1.0]
    for epsilon, delta in zip(_EPSILONS, deltas, strict=True):
        tangent = math.exp(epsilon)
        bounds += [tangent * rate + delta, 1 - max(0.0, 1 - rate - delta) / tangent]
    return min(bounds)
