"""What a plan costs beside its epsilon and delta: all of it follows from the plan, so that it can be computed anew."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache

from dpdm_cli.errors import DamagedFileError, PrivacyError
from dpdm_cli.privacy.accounting.attack_risk import AttackRisk, plan_fit, plan_risk
from dpdm_cli.privacy.accounting.claims import MAX_EPSILON, claim, round_up
from dpdm_cli.privacy.accounting.gaussian_dp import GaussianFit, gaussian_delta, gaussian_mu
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.stored import Json, shown, understood

STEPS = "steps"
"""The name of the noisy steps among the parts of a budget; the warm start has its own."""

_LAST_DIGIT = 1.001e-4
"""Figures are rounded up at four decimals, and another release of the accountants may round one to the next."""

_DRIFT = 0.01
"""How much larger, relative, the figures of another release of the accountants may be."""


@dataclass(frozen=True, kw_only=True)
class Risk:
    """Upper bounds for the whole of a plan, rounded up at four decimals; and how its budget is divided.

    Attributes:
        attack: how well anybody can tell whether a record was there.
        gaussian_dp: mu with its regret; None where PLD has no answer, or no mu holds down to delta.
        epsilon_without_amplification: for whoever knows which steps the record was drawn for; None above 1000.
        budget: share of each part, by name; they sum to 1.
    """

    attack: AttackRisk
    gaussian_dp: GaussianFit | None
    epsilon_without_amplification: float | None
    budget: Mapping[str, float]

    def __post_init__(self) -> None:
        epsilon = self.epsilon_without_amplification
        if epsilon is not None and not 0 <= epsilon <= MAX_EPSILON:
            raise ValueError("no epsilon")
        shares = self.budget.values()
        if not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-9:
            raise ValueError("no shares of a budget")
        figures = [*self._bounds().values(), *shares]
        if any(figure != math.inf and round(figure, 4) != figure for figure in figures):
            raise ValueError("figures of more than four decimals")

    def to_json(self) -> Json:
        """A JSON object."""
        return {
            "attack": {
                "guess_at_even_odds": self.attack.guess,
                "true_positive_rates": [list(pair) for pair in self.attack.true_positive_rates],
            },
            "gaussian_dp": self.gaussian_dp and asdict(self.gaussian_dp),
            "epsilon_without_amplification": self.epsilon_without_amplification,
            "budget": dict(self.budget),
        }

    @classmethod
    def from_json(cls, values: object) -> Risk:
        """What `to_json` described. Raises DamagedFileError: it did not."""

        def attack(stored: object) -> AttackRisk:
            found = understood(_StoredAttack, stored, "the attack risk")
            return AttackRisk(
                guess=found.guess_at_even_odds, true_positive_rates=found.true_positive_rates
            )

        return understood(cls, values, "the risk", attack=attack)

    def check(self, plan: PrivacyPlan) -> None:
        """Whether a plan can have this risk.

        Raises:
            PrivacyError: a figure is smaller than the plan allows.
            DamagedFileError: one is larger than any accountant says; or another part of the budget.
        """
        true = risk_of(plan)
        stated = self._bounds()
        for name, bound in true._bounds().items():
            found = stated[name]
            if found < bound - _LAST_DIGIT:
                raise PrivacyError(
                    f"the statement's {name} is {found}, but its plan allows {bound}",
                    "do not rely on it",
                )
            if found > (1 + _DRIFT) * bound + _LAST_DIGIT:
                raise DamagedFileError(
                    f"the statement's {name} is {found}, but its plan allows {bound} at most"
                )
        if self.budget.keys() != true.budget.keys():
            raise DamagedFileError(
                f"the risk's budget is that of {shown(', '.join(self.budget))}, but the plan has "
                f"{', '.join(true.budget)}"
            )
        for name, bound in true.budget.items():
            if abs(self.budget[name] - bound) > 2 * _DRIFT:
                raise DamagedFileError(
                    f"the risk's budget for {name} is {self.budget[name]}, but the plan has {bound}"
                )

    def _bounds(self) -> dict[str, float]:
        """The figures by name; what is not known counts as infinite. The regret is no bound of a risk."""
        fit, epsilon = self.gaussian_dp, self.epsilon_without_amplification
        return {
            "guess_at_even_odds": self.attack.guess,
            **{f"true positive rate at {r:g}": t for r, t in self.attack.true_positive_rates},
            "mu": math.inf if fit is None else fit.mu,
            "regret": math.inf if fit is None else fit.regret,
            "epsilon_without_amplification": math.inf if epsilon is None else epsilon,
        }


@dataclass(frozen=True, kw_only=True)
class _StoredAttack:
    guess_at_even_odds: float
    true_positive_rates: tuple[tuple[float, float], ...]


@lru_cache(maxsize=256)
def risk_of(plan: PrivacyPlan) -> Risk:
    """The risk of all releases of a plan.

    Raises:
        PrivacyError: see `claim`.
    """
    return Risk(
        attack=plan_risk(plan),
        gaussian_dp=plan_fit(plan),
        epsilon_without_amplification=unamplified_epsilon(plan),
        budget=budget_by_part(plan),
    )


def budget_by_part(plan: PrivacyPlan) -> dict[str, float]:
    """Share of the warm start, under its name, and of the steps.

    As `calibrate` divides a budget: the warm start's is what its sums cost of the one Gaussian release that would
    spend all of (epsilon, delta), in the sense of zero-concentrated privacy, where shares add up.
    """
    if not plan.warm_releases:
        return {STEPS: 1.0}
    assert plan.warm_sigma is not None
    whole = gaussian_mu(claim(plan).epsilon, plan.delta)
    share = round(min(1.0, plan.warm_releases / (plan.warm_sigma * whole) ** 2), 4)
    return {plan.warm_start: share, STEPS: round(1 - share, 4)}


def unamplified_epsilon(plan: PrivacyPlan) -> float | None:
    """Epsilon without amplification by sampling: for whoever knows which steps drew the record, if it was there.

    It was drawn for a number m of steps, distributed as Binomial(steps, q) whatever the records are. Given m, all
    releases together are one Gaussian of squared distance m / sigma^2 plus that of the warm start.

    Returns:
        rounded up at four decimals; None above 1000.
    """
    import numpy
    from scipy.optimize import brentq
    from scipy.stats import binom

    drawn = binom(plan.steps, max(plan.sample_rate, 1e-12))  # a larger rate costs more
    tail = plan.delta / 1000
    last = plan.steps if plan.sample_rate == 1 else int(drawn.isf(tail))
    first = plan.steps if plan.sample_rate == 1 else int(drawn.ppf(tail))
    counts = numpy.arange(first, last + 1)
    # The few below the first count as the first, all above the last as found out.
    shares = drawn.pmf(counts)
    shares[0] = drawn.cdf(first)
    missed = float(drawn.sf(last))
    warm = 0.0 if plan.warm_sigma is None else plan.warm_releases / plan.warm_sigma**2
    distances = numpy.sqrt(counts / plan.sigma**2 + warm)
    some = distances > 0

    def excess(epsilon: float) -> float:
        delta = float(shares[some] @ gaussian_delta(epsilon, distances[some]))
        return delta + missed - plan.delta

    if excess(MAX_EPSILON) > 0:
        return None
    if excess(0.0) <= 0:
        return 0.0
    return round_up(brentq(excess, 0.0, MAX_EPSILON, xtol=1e-10) + 1e-9, 4)
