"""What each part of a plan has of its budget: the sums of the warm start, and the steps."""

from __future__ import annotations

from dataclasses import dataclass

from dpdm_cli.privacy.accounting.claims import claim, compose
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
        share: of the whole, from 0 to 1. Shares do add up, see `calibrate`.
    """

    name: str
    releases: int
    sigma: float
    sample_rate: float
    epsilon: float
    share: float


def budget_of(plan: PrivacyPlan) -> tuple[BudgetPart, ...]:
    """The parts of a plan, in the order they are spent.

    The share of the warm start is the one that it was calibrated with, in the sense of zero-concentrated privacy: what
    its sums cost together is the cost of one Gaussian release that is noisier by 1/sqrt(share) than the one that would
    spend all of (epsilon, delta). The steps have the rest.

    Raises:
        PrivacyError: see `claim`.
    """
    warm_share = 0.0
    if plan.warm_sigma is not None:
        from dp_accounting import get_sigma_gaussian

        alone = get_sigma_gaussian(claim(plan).epsilon, plan.delta)
        warm_share = min(1.0, plan.warm_releases * (alone / plan.warm_sigma) ** 2)
    parts = []
    if plan.warm_sigma is not None:
        parts.append((_WARM[plan.warm_start], plan.warm_releases, plan.warm_sigma, 1.0, warm_share))
    steps = "training steps", plan.steps, plan.sigma, plan.sample_rate, 1.0 - warm_share
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
