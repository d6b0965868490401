"""The same releases under another question: another neighbouring relation, several images a person, the best of several
runs. Needs dp-accounting.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from dpdm_cli.errors import PrivacyError, ResourceError
from dpdm_cli.privacy import accountants
from dpdm_cli.privacy.plan import PrivacyPlan, positive_integer, positive_number

MOST_IMAGES = 1000
_FEWEST_RUNS = 1.0


def replace_one_epsilon(plan: PrivacyPlan) -> float:
    """Epsilon of a whole plan when neighbouring data sets differ by one image put in the place of another.

    About twice that of adding or removing one. By dp-accounting's PLD of the subsampled Gaussian under that relation.

    Raises:
        ResourceError: dp-accounting is not installed.
        PrivacyError: no finite bound within the accountant's reach.
    """
    _require()
    from dp_accounting import NeighboringRelation

    def one_release(distributions: Any, q: float, sigma: float, interval: float) -> Any:
        return distributions.from_gaussian_mechanism(
            sigma,
            value_discretization_interval=interval,
            sampling_prob=q,
            neighboring_relation=NeighboringRelation.REPLACE_ONE,
        )

    return _pld(plan, one_release)


def person_epsilon(plan: PrivacyPlan, images: int) -> float:
    """Epsilon of a whole plan for a person with up to so many images, all of them added or removed together.

    A step includes Binomial(images, q) of them, and its sum moves by at most that many times C: a mixture of Gaussians
    (Ganesh 2024, arXiv 2401.10294), by dp-accounting's PLD.

    Raises:
        UsageError: images below 1 or no whole number.
        ResourceError, PrivacyError: as for `replace_one_epsilon`; more than 1000 images.
    """
    count = positive_integer("images_per_person", images)
    if count > MOST_IMAGES:
        raise PrivacyError(
            f"no bound is computed for {count} images a person", f"ask for at most {MOST_IMAGES}"
        )

    def one_release(distributions: Any, q: float, sigma: float, interval: float) -> Any:
        if q == 1:  # all of them, always: one release that much louder
            return distributions.from_gaussian_mechanism(
                sigma / count, value_discretization_interval=interval
            )
        sensitivities, probabilities = _share_of_person(q, count)
        return distributions.from_mixture_gaussian_mechanism(
            sigma,
            sensitivities=sensitivities,
            sampling_probs=probabilities,
            value_discretization_interval=interval,
        )

    return _pld(plan, one_release)


def _share_of_person(q: float, count: int) -> tuple[list[float], list[float]]:
    """How many of a person's images a release at rate q includes, and with which probability: Binomial(count, q)."""
    shares = [
        math.exp(
            math.lgamma(count + 1)
            - math.lgamma(i + 1)
            - math.lgamma(count - i + 1)
            + i * math.log(q)
            + (count - i) * math.log1p(-q)
        )
        for i in range(count + 1)
    ]
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
        UsageError, ResourceError, PrivacyError: as above.
    """
    mean = positive_number("the mean number of runs", mean_runs)
    if mean <= _FEWEST_RUNS:
        raise PrivacyError(
            f"a selection among {mean:g} runs on average is none", "give a mean above 1"
        )
    _require()
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


def _pld(plan: PrivacyPlan, one_release: Callable[[Any, float, float, float], Any]) -> float:
    _require()
    from dp_accounting.pld import privacy_loss_distribution

    try:
        interval = accountants.pld_interval(plan.parts(), plan.delta, wanted=1e-4)
        with accountants.quiet():
            losses = [
                one_release(privacy_loss_distribution, q, sigma, interval).self_compose(times)
                for q, sigma, times in plan.parts()
            ]
            together = functools.reduce(lambda one, other: one.compose(other), losses)
            return _finite(float(together.get_epsilon_for_delta(plan.delta)))
    except (
        accountants.NotComputable,
        ArithmeticError,
        ValueError,
        RuntimeError,
        MemoryError,
    ) as error:
        raise PrivacyError(f"the PLD accountant has no bound for this: {error}") from error


def _finite(epsilon: float) -> float:
    if not math.isfinite(epsilon) or epsilon < 0:
        raise PrivacyError("no finite epsilon can be claimed for this")
    return epsilon


def _require() -> None:
    if not accountants.pld_installed():
        raise ResourceError(
            "this needs dp-accounting, which is not installed", "pip install dp-accounting"
        )
