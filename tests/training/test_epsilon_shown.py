"""The epsilon beside the bar of a run: an upper bound at every step, by the accountant of the claim."""

from __future__ import annotations

import pytest

from dpdm_cli.privacy.accounting.claims import claim, spent
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.training.loop import epsilon_so_far

PLANS = {
    "steps alone": {},
    "a warm start": {"warm_start": "moments", "warm_sigma": 12.0},
    "by RDP": {"accountant": "rdp"},
    "few steps": {"steps": 7, "sigma": 0.7},
}


def plan_of(name: str) -> PrivacyPlan:
    figures = {"dataset_size": 5000, "expected_batch_size": 250, "steps": 300, "sigma": 0.8}
    return PrivacyPlan(**{"delta": 1e-5, **figures, **PLANS[name]})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PLANS)
def test_what_is_shown_is_never_less_than_what_was_spent(name: str) -> None:
    plan = plan_of(name)
    shown = epsilon_so_far(plan)
    total = claim(plan)
    before = 0.0
    for done in range(1, plan.steps + 1):
        text = shown(done)
        assert text.startswith("<= ")
        assert text.endswith(f" of {total.epsilon_text}")
        epsilon = float(text.split()[1])
        assert before <= epsilon
        before = epsilon
        if done in (1, plan.steps // 3, plan.steps // 2, plan.steps):
            exact = claim(plan, done).epsilon_by[total.accountant]
            assert exact <= epsilon + 1e-9
    assert epsilon == float(total.epsilon_text)


@pytest.mark.parametrize("name", ["steps alone", "a warm start"])
def test_half_way_a_part_of_the_budget_is_left(name: str) -> None:
    """RDP's bound would pass the whole claim by then."""
    plan = plan_of(name)
    whole = claim(plan).epsilon
    assert spent(plan, plan.steps // 2) < 0.85 * whole
    assert spent(plan, plan.steps) == pytest.approx(whole, abs=0.02)


def test_a_run_without_privacy_says_so() -> None:
    assert epsilon_so_far(None)(3) == "NOT PRIVATE"
