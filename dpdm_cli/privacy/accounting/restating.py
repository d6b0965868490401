"""The same releases under another question: another neighbouring relation, several images a person, the best of several
runs. By dp-accounting, imported on first use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from dpdm_cli.errors import PrivacyError
from dpdm_cli.privacy.accounting import accountants
from dpdm_cli.privacy.plan import PrivacyPlan, positive_integer, positive_number

MOST_IMAGES = 1000
_FEWEST_RUNS = 1.0


def replace_one_epsilon(plan: PrivacyPlan) -> float:
    """Epsilon of a whole plan when neighbouring data sets differ by one image replaced by another.

    About twice that of adding or removing one. By dp-accounting's PLD of the subsampled Gaussian under that relation.

    Raises:
        PrivacyError: no finite bound within the accountant's reach.
    """
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    def loss_of(q: float, sigma: float, interval: float) -> Any:
        return from_gaussian_mechanism(
            sigma,
            value_discretization_interval=interval,
            sampling_prob=q,
            neighboring_relation=NeighboringRelation.REPLACE_ONE,
        )

    return _pld(plan, loss_of)


def person_epsilon(
    plan: PrivacyPlan, images: int, advance: Callable[[], object] = lambda: None
) -> float:
    """Epsilon of a whole plan for a person with up to so many images, all of them added or removed together.

    A step includes Binomial(images, q) of them, and its sum moves by at most that many times C: a mixture of Gaussians
    (Ganesh 2024, arXiv 2401.10294), by dp-accounting's PLD.

    Args:
        advance: called when one of the plan's parts is understood; the steps' may take a minute.

    Raises:
        UsageError: images below 1 or no whole number.
        PrivacyError: as for `replace_one_epsilon`; more than 1000 images.
    """
    count = positive_integer("images_per_person", images)
    if count > MOST_IMAGES:
        raise PrivacyError(
            f"no bound is computed for {count} images a person", f"ask for at most {MOST_IMAGES}"
        )

    from dp_accounting.pld import privacy_loss_distribution as losses

    def loss_of(q: float, sigma: float, interval: float) -> Any:
        loss = loss_of_one(q, sigma, interval)
        advance()
        return loss

    def loss_of_one(q: float, sigma: float, interval: float) -> Any:
        if q == 1:  # all of them, always: one release that much louder
            return losses.from_gaussian_mechanism(
                sigma / count, value_discretization_interval=interval
            )
        sensitivities, probabilities = _share_of_person(q, count)
        return losses.from_mixture_gaussian_mechanism(
            sigma,
            sensitivities=sensitivities,
            sampling_probs=probabilities,
            value_discretization_interval=interval,
        )

    return _pld(plan, loss_of)


def _share_of_person(q: float, count: int) -> tuple[list[float], list[float]]:
    """How many of a person's images a release at rate q includes, and with which probability: Binomial(count, q)."""
    from scipy.stats import binom

    shares = [float(share) for share in binom.pmf(range(count + 1), count, q)]
    # Shares too small for a double count as the largest sensitivity: that can only cost more.
    shares[count] += max(0.0, 1.0 - math.fsum(shares))
    total = math.fsum(shares)
    kept = [(float(i), share / total) for i, share in enumerate(shares) if share > 0]
    return [number for number, _ in kept], [share for _, share in kept]


def selection_epsilon(plan: PrivacyPlan, mean_runs: float) -> float:
    """Epsilon of publishing the best of several runs of a plan, their number drawn from a geometric distribution.

    Papernot and Steinke 2022 (arXiv 2110.03620, theorem 2 with eta = 1), by dp-accounting's RDP. The number of runs
    must really be drawn so, and everything else about the runs must stay unpublished.

    Args:
        mean_runs: expected number of runs, above 1.

    Raises:
        UsageError, PrivacyError: as above.
    """
    mean = positive_number("the mean number of runs", mean_runs)
    if mean <= _FEWEST_RUNS:
        raise PrivacyError(
            f"a selection among {mean:g} runs on average is not a selection", "give a mean above 1"
        )
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    one_run = dp_event.ComposedDpEvent(
        [
            dp_event.SelfComposedDpEvent(
                dp_event.PoissonSampledDpEvent(q, dp_event.GaussianDpEvent(sigma)), times
            )
            for q, sigma, times in plan.parts()
        ]
    )
    accountant = RdpAccountant(orders=list(accountants.ORDERS))
    with accountants.quiet():
        accountant.compose(dp_event.RepeatAndSelectDpEvent(one_run, mean, 1.0))
        return _finite(float(accountant.get_epsilon(plan.delta)))


def _pld(plan: PrivacyPlan, loss_of: accountants.LossOf) -> float:
    try:
        # One of 1e-4 for large epsilon takes five times as long, and a few ten-thousandths of epsilon off.
        epsilon = accountants.composed_rdp_epsilon(plan.parts(), plan.delta)
        wanted = min(3e-3, max(1e-4, 3e-4 * epsilon))
        interval = accountants.pld_interval(plan.parts(), plan.delta, wanted)
        return accountants.composed_loss_epsilon(plan.parts(), plan.delta, interval, loss_of)
    except accountants.NotComputable as error:
        raise PrivacyError(f"the PLD accountant has no bound for this: {error}") from error


def _finite(epsilon: float) -> float:
    if not math.isfinite(epsilon) or epsilon < 0:
        raise PrivacyError("no finite epsilon can be claimed for this")
    return epsilon
