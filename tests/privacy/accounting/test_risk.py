"""What a plan costs beside epsilon: bounds that follow from the plan, and shares of its budget."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from dp_accounting import get_epsilon_gaussian
from scipy.optimize import brentq

from dpdm_cli.errors import DamagedFileError, PrivacyError
from dpdm_cli.privacy.accounting.claims import calibrate, claim
from dpdm_cli.privacy.accounting.gaussian_dp import gaussian_delta
from dpdm_cli.privacy.accounting.risk import Risk, budget_by_part, risk_of, unamplified_epsilon
from dpdm_cli.privacy.plan import PrivacyPlan

BASE: dict[str, Any] = {
    "dataset_size": 1000,
    "expected_batch_size": 50,
    "steps": 100,
    "sigma": 1.0,
    "delta": 1e-5,
}


def plan(**changes: Any) -> PrivacyPlan:
    return PrivacyPlan(**{**BASE, **changes})


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (5.0, 20), (40.0, 1000)])
def test_without_sampling_nothing_is_amplified(sigma: float, steps: int) -> None:
    found = unamplified_epsilon(plan(expected_batch_size=1000, sigma=sigma, steps=steps))
    assert found == pytest.approx(get_epsilon_gaussian(sigma / steps**0.5, 1e-5), abs=1.01e-4)


def test_of_one_step_it_is_what_the_step_costs_whom_it_drew() -> None:
    """Drawn with probability q, so that delta is q times that of one Gaussian."""
    exact = brentq(lambda e: 0.05 * float(gaussian_delta(e, 1.0)) - 1e-5, 0, 50)
    found = unamplified_epsilon(plan(steps=1))
    assert found is not None
    assert exact <= found <= exact + 0.005  # a thousandth of delta is set aside


@pytest.mark.parametrize("changes", [{}, {"warm_start": "means", "warm_sigma": 4.0}])
def test_amplification_only_helps(changes: dict[str, Any]) -> None:
    of = plan(**changes)
    found = unamplified_epsilon(of)
    assert found is not None
    assert found >= claim(of).epsilon_by["pld"]


def figures(of: PrivacyPlan) -> list[float]:
    risk = risk_of(of)
    assert risk.gaussian_dp is not None
    assert risk.epsilon_without_amplification is not None
    rates = [bound for _, bound in risk.attack.true_positive_rates]
    return [risk.attack.guess, *rates, risk.gaussian_dp.mu, risk.epsilon_without_amplification]


@pytest.mark.parametrize(
    "safer",
    [
        {"sigma": 1.2},
        {"steps": 80},
        {"expected_batch_size": 40},
        {"dataset_size": 1200},
        {"warm_start": "means", "warm_sigma": 12.0},
        {"warm_start": "moments", "warm_sigma": 20.0},
        {"warm_start": "none", "warm_sigma": None},
    ],
)
def test_every_figure_is_smaller_for_a_safer_plan(safer: dict[str, Any]) -> None:
    base = {"warm_start": "moments", "warm_sigma": 12.0}
    less, more = figures(plan(**{**base, **safer})), figures(plan(**base))
    assert all(one <= other for one, other in zip(less, more, strict=True))
    assert less[0] < more[0]  # others may be the same at four decimals


def test_mu_and_the_epsilon_without_amplification_fall_with_delta() -> None:
    small, large = figures(plan(delta=1e-8)), figures(plan(delta=1e-4))
    assert small[-1] > large[-1]
    assert small[-2] >= large[-2]
    assert small[0] == pytest.approx(large[0], abs=2e-4)  # at even odds delta counts for nothing


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_budget_is_divided_as_it_was_planned(share: float) -> None:
    for batch in (50.0, 1000.0):
        found = calibrate(
            epsilon=3.0,
            delta=1e-5,
            dataset_size=1000,
            expected_batch_size=batch,
            steps=50,
            warm_start="moments",
            warm_share=share,
        )
        assert budget_by_part(found)["moments"] == pytest.approx(share, rel=0.01)
        assert sum(budget_by_part(found).values()) == pytest.approx(1)


def test_without_sampling_shares_are_those_of_zero_concentrated_privacy() -> None:
    of = plan(expected_batch_size=1000, sigma=20.0, warm_start="moments", warm_sigma=3.0)
    warm, steps = 2 / 3.0**2, 100 / 20.0**2
    assert budget_by_part(of)["moments"] == pytest.approx(warm / (warm + steps), abs=0.01)


@pytest.mark.parametrize("batch", [1e-300, 1e-9, 1.0, 1000.0])
@pytest.mark.parametrize("sigma", [0.2, 1e3])
def test_every_plan_has_a_risk(batch: float, sigma: float) -> None:
    of = plan(expected_batch_size=batch, sigma=sigma)
    Risk.from_json(json.loads(json.dumps(risk_of(of).to_json(), allow_nan=False))).check(of)


def test_all_of_the_budget_is_the_steps_where_nothing_comes_before_them() -> None:
    assert budget_by_part(plan()) == {"steps": 1.0}


def test_a_risk_survives_storage_and_is_that_of_its_plan() -> None:
    of = plan(warm_start="means", warm_sigma=4.0)
    risk = risk_of(of)
    again = Risk.from_json(json.loads(json.dumps(risk.to_json())))
    assert again == risk
    again.check(of)
    with pytest.raises(PrivacyError, match="its plan allows"):
        again.check(plan(sigma=0.9, warm_start="means", warm_sigma=4.0))
    with pytest.raises(DamagedFileError, match="its plan allows"):
        again.check(plan())
    for budget in ({"means": 0.5, "steps": 0.5}, {"moments": 0.1, "steps": 0.9}, {"steps": 1.0}):
        with pytest.raises(DamagedFileError, match="budget"):
            replace(risk, budget=budget).check(of)
