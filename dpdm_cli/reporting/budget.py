"""What each part of a plan has of its budget: the sums of the warm start, and the steps."""

from __future__ import annotations

from dataclasses import dataclass

from dpdm_cli.privacy.accounting.claims import compose
from dpdm_cli.privacy.accounting.risk import STEPS, budget_by_part
from dpdm_cli.privacy.plan import PrivacyPlan


@dataclass(frozen=True, kw_only=True)
class BudgetPart:
    """One part of a plan.

    Attributes:
        name: in words.
        releases: how many noisy sums it publishes.
        sigma: their noise, in units of what one record may contribute.
        sample_rate: with which probability a release includes a given record.
        epsilon: what the part alone would cost, at the plan's delta. These do not add up to the whole: they compose.
        share: of the whole, from 0 to 1. Shares do add up, see `budget_by_part`.
    """

    name: str
    releases: int
    sigma: float
    sample_rate: float
    epsilon: float
    share: float


def budget_of(plan: PrivacyPlan) -> tuple[BudgetPart, ...]:
    """The parts of a plan, in the order they are spent.

    Raises:
        PrivacyError: see `claim`.
    """
    shares = budget_by_part(plan)
    parts = []
    if plan.warm_sigma is not None:
        name, share = _WARM[plan.warm_start], shares[plan.warm_start]
        parts.append((name, plan.warm_releases, plan.warm_sigma, 1.0, share))
    steps = "training steps", plan.steps, plan.sigma, plan.sample_rate, shares[STEPS]
    return tuple(
        BudgetPart(
            name=name,
            releases=releases,
            sigma=sigma,
            sample_rate=rate,
            epsilon=compose([(rate, sigma, releases)], plan.delta).epsilon,
            share=share,
        )
        for name, releases, sigma, rate, share in (*parts, steps)
    )


_WARM = {
    "means": "warm start (class means)",
    "moments": "warm start (class means and covariances)",
}
