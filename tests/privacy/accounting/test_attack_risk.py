from __future__ import annotations

import math

import pytest
from scipy.stats import norm

from dpdm_cli.privacy.accounting.accountants import NotComputable
from dpdm_cli.privacy.accounting.attack_risk import (
    FALSE_POSITIVE_RATES,
    AttackRisk,
    attack_risk,
    plan_risk,
    risk_of_epsilon,
)
from dpdm_cli.privacy.accounting.claims import claim
from dpdm_cli.privacy.plan import PrivacyPlan

DELTA = 1e-5


def figures(risk: AttackRisk) -> list[float]:
    return [risk.guess, *(bound for _, bound in risk.true_positive_rates)]


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (0.5, 1), (3.0, 9), (20.0, 100)])
def test_without_sampling_the_bounds_are_those_of_one_gaussian(sigma: float, steps: int) -> None:
    """T steps of noise sigma are one Gaussian of distance sqrt(T) / sigma (Dong, Roth and Su, arXiv 1905.02383)."""
    distance = steps**0.5 / sigma
    exact = [norm.cdf(distance / 2)]
    exact += [norm.cdf(norm.ppf(rate) + distance) for rate in FALSE_POSITIVE_RATES]
    for bound, true in zip(figures(attack_risk(((1.0, sigma, steps),), DELTA)), exact, strict=True):
        assert true <= bound <= true + 1.01e-4  # the last digit, rounded up


def test_the_papers_plan_for_epsilon_10_allows_a_guess_that_is_right_in_84_of_100_cases() -> None:
    risk = attack_risk(((4096 / 60_000, 2.383, 4395),), DELTA)
    assert risk.guess == pytest.approx(0.837, abs=0.001)


def test_more_noise_fewer_steps_and_rarer_sampling_lower_every_bound() -> None:
    base = figures(attack_risk(((0.05, 1.0, 100),), DELTA))
    for safer in ((0.05, 1.2, 100), (0.05, 1.0, 80), (0.04, 1.0, 100)):
        for less, more in zip(figures(attack_risk((safer,), DELTA)), base, strict=True):
            assert less < more
    both = figures(attack_risk(((0.05, 1.0, 100), (1.0, 5.0, 1)), DELTA))
    assert all(more > less for more, less in zip(both, base, strict=True))


def test_a_plan_never_allows_more_than_its_epsilon_does() -> None:
    from dpdm_cli.privacy.accounting.accountants import composed_pld_epsilon

    parts = ((0.05, 1.0, 100),)
    epsilon = composed_pld_epsilon(parts, DELTA)
    allowed = risk_of_epsilon(epsilon, DELTA)
    for of_plan, of_epsilon in zip(
        figures(attack_risk(parts, DELTA)), figures(allowed), strict=True
    ):
        assert of_plan <= of_epsilon


def test_epsilon_0_allows_blind_guessing_and_delta_is_added() -> None:
    assert figures(risk_of_epsilon(0.0, 0.0)) == [0.5, *FALSE_POSITIVE_RATES]
    assert risk_of_epsilon(0.0, 0.1).guess == pytest.approx(0.55)
    assert risk_of_epsilon(1000.0, 0.0).guess == 1.0


def test_what_pld_cannot_compute_is_no_number() -> None:
    with pytest.raises(NotComputable):
        attack_risk(((0.5, 0.01, 10**6),), DELTA)


@pytest.mark.parametrize("batch", [1e-300, 1e-9, 1.0, 1000.0])
def test_every_plan_has_a_risk(batch: float) -> None:
    plan = PrivacyPlan(
        dataset_size=1000, expected_batch_size=batch, steps=10, sigma=1.0, delta=1e-5
    )
    assert 0.5 <= plan_risk(plan).guess <= 1


def test_where_pld_has_no_answer_the_risk_is_that_of_the_claim() -> None:
    plan = PrivacyPlan(
        dataset_size=1000, expected_batch_size=500.0, steps=10**6, sigma=1.0, delta=1e-5
    )
    assert plan_risk(plan) == risk_of_epsilon(claim(plan).epsilon, plan.delta)


@pytest.mark.parametrize(
    ("sample_rate", "sigma", "steps"),
    [(4096 / 60_000, 2.383006, 4394), (4096 / 60_000, 82.5, 4394), (0.01, 0.7, 300)],
)
def test_another_accountant_of_other_people_says_the_same(
    sample_rate: float, sigma: float, steps: int
) -> None:
    """Opacus' PRV: delta at epsilon 0, and the best line below the curve for each rate."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(sigma, sample_rate, steps)]
    composed = accountant._get_dprv(eps_error=0.005, delta_error=1e-9)
    epsilons = [i / 20 for i in range(200)]
    deltas = [float(composed.compute_delta_estimate(epsilon)) for epsilon in epsilons]
    risk = attack_risk(((sample_rate, sigma, steps),), DELTA)
    assert risk.guess == pytest.approx((1 + deltas[0]) / 2, abs=5e-4)
    for rate, bound in risk.true_positive_rates:
        lines = [
            min(math.exp(e) * rate + d, 1 - (1 - rate - d) * math.exp(-e))
            for e, d in zip(epsilons, deltas, strict=True)
        ]
        assert bound == pytest.approx(min(lines), abs=1e-3)
