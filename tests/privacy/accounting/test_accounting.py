"""Claims are upper bounds, calibrations are never on the unsafe side, and nothing hangs."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import log_ndtr

from dpdm_cli.errors import DamagedFileError, PrivacyError, UsageError
from dpdm_cli.privacy.accounting import accountants
from dpdm_cli.privacy.accounting import claims as accounting
from dpdm_cli.privacy.accounting.accountants import (
    ORDERS,
    PAPER_ORDERS,
    NotComputable,
    composed_pld_epsilon,
    composed_prv_epsilon,
    composed_rdp_epsilon,
    rdp_of_one_step,
)
from dpdm_cli.privacy.accounting.claims import (
    calibrate,
    check_plan_file,
    claim,
    compose,
    planned,
    round_up,
)
from dpdm_cli.privacy.accounting.paper_profile import calibrate_like_paper
from dpdm_cli.privacy.ledger import PublishedLedger
from dpdm_cli.privacy.plan import PrivacyPlan, steps_for_epochs
from dpdm_cli.privacy.plan_file import write_plan_file
from dpdm_cli.privacy.public_inputs import PUBLISHED
from dpdm_cli.privacy.statement import private_statement


def rdp_epsilon(
    q: float, sigma: float, steps: int, delta: float, orders: tuple[float, ...] = ORDERS
) -> float:
    return composed_rdp_epsilon(((q, sigma, steps),), delta, orders)


def prv_epsilon(q: float, sigma: float, steps: int, delta: float, eps_error: float) -> float:
    return composed_prv_epsilon(((q, sigma, steps),), delta, eps_error)


def pld_epsilon(q: float, sigma: float, steps: int, delta: float, interval: float = 1e-4) -> float:
    return composed_pld_epsilon(((q, sigma, steps),), delta, interval)


MNIST: dict[str, Any] = {
    "dataset_size": 60_000,
    "expected_batch_size": 4096,
    "steps": 4394,
    "delta": 1e-5,
}
CELEBA: dict[str, Any] = {
    "dataset_size": 162_770,
    "expected_batch_size": 2048,
    "steps": steps_for_epochs(162_770, 2048, 300),
    "delta": 1e-6,
}
Q_MNIST, Q_CELEBA = 4096 / 60_000, 2048 / 162_770
GRID = [
    (Q_MNIST, 2.4, 4394, 1e-5),
    (Q_MNIST, 17.0, 4394, 1e-5),
    (Q_MNIST, 75.0, 4394, 1e-5),
    (Q_CELEBA, 8.3, 23_843, 1e-6),
    (0.01, 1.0, 1, 1e-5),
    (0.01, 1.1, 1000, 1e-5),
    (0.05, 1.5, 500, 1e-8),
    (0.3, 4.0, 100, 1e-5),
    (0.5, 5.0, 50, 1e-4),
    (0.9, 20.0, 300, 1e-3),
    (1.0, 5.0, 1, 1e-5),
    (1.0, 100.0, 1000, 1e-5),
]


@pytest.fixture
def unremembered() -> Iterator[None]:
    """For tests that replace an accountant: its answers must not outlive it."""
    accounting._bounds.cache_clear()
    yield
    accounting._bounds.cache_clear()


def plan_with(**changes: Any) -> PrivacyPlan:
    return PrivacyPlan(**{**MNIST, "sigma": 2.4, **changes})


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The exact epsilon of a Gaussian mechanism: Balle and Wang 2018, theorem 8."""

    def excess(epsilon: float) -> float:
        first = log_ndtr(mu / 2 - epsilon / mu)
        second = epsilon + log_ndtr(-mu / 2 - epsilon / mu)
        return float(first + math.log1p(-math.exp(second - first)) - math.log(delta))

    return float(brentq(excess, 1e-9, 500))


# --- the accountants ---------------------------------------------------------------------------


@pytest.mark.parametrize(("q", "sigma", "steps", "delta"), GRID)
def test_three_independent_accountants_agree(
    q: float, sigma: float, steps: int, delta: float
) -> None:
    rdp = rdp_epsilon(q, sigma, steps, delta)
    error = accounting.prv_error(rdp)
    prv = prv_epsilon(q, sigma, steps, delta, error)
    pld = pld_epsilon(q, sigma, steps, delta)
    assert 0 < prv <= rdp + error
    assert abs(prv - pld) <= 2 * error + 0.01 * prv
    # PLD rounds up and PRV adds its error: PRV below PLD would be a bound too low.
    assert prv >= pld - 0.002 * max(1.0, prv)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize(("sigma", "steps"), [(5.0, 1), (16.7, 100), (100.0, 10_000)])
def test_every_bound_is_above_the_closed_form_of_the_gaussian_mechanism(
    sigma: float, steps: int, delta: float
) -> None:
    exact = gaussian_epsilon(math.sqrt(steps) / sigma, delta)
    error = accounting.prv_error(rdp_epsilon(1.0, sigma, steps, delta))
    assert rdp_epsilon(1.0, sigma, steps, delta) >= exact
    assert exact <= pld_epsilon(1.0, sigma, steps, delta) <= 1.005 * exact
    assert exact <= prv_epsilon(1.0, sigma, steps, delta, error) <= exact + 2 * error


SMALL_DELTAS = [
    (5.430015297007268, 457, 2.494e-11),
    (15.93952133840611, 1269, 3.2115573020773515e-11),
    (8.472948093825666, 267, 8.532786555632416e-12),
    (9.47079563141609, 1034, 5.79084337107649e-11),
    (6.348955765851814, 1202, 1.055273929808377e-10),
    (76.38442748623305, 13974, 4.011836204471976e-10),
    (14.263842402913532, 1688, 2.4849452341406003e-10),
    (0.26037104312026615, 3, 1.5009124104218e-12),
    (2380.6340267563373, 6922, 4.1196899e-10),
    (4.396979098098434, 67, 4.3580837008955843e-10),
]


@pytest.mark.parametrize(("sigma", "steps", "delta"), SMALL_DELTAS)
def test_rounding_takes_no_bound_below_the_closed_form_at_a_small_delta(
    sigma: float, steps: int, delta: float
) -> None:
    # Delta is up to a hundred times the noise of the Fourier transforms: the least there may be.
    exact = gaussian_epsilon(math.sqrt(steps) / sigma, delta)
    assert exact <= pld_epsilon(1.0, sigma, steps, delta) <= 1.01 * exact
    error = accounting.prv_error(exact)
    try:
        assert exact <= prv_epsilon(1.0, sigma, steps, delta, error)
    except NotComputable as refusal:
        assert "beyond 50" in str(refusal)  # noqa: PT017


@pytest.mark.parametrize("q", [1e-4, 1e-2, 0.3])
@pytest.mark.parametrize(("sigma", "delta"), [(0.3, 1e-11), (0.5, 1e-9), (1.0, 1e-12)])
def test_one_sampled_step_is_never_below_its_closed_form(
    q: float, sigma: float, delta: float
) -> None:
    """Removing a record from a Poisson-sampled Gaussian: the Gaussian's delta, scaled by q and at a shifted epsilon."""

    def delta_at(epsilon: float) -> float:
        shifted, mu = math.log1p(math.expm1(epsilon) / q), 1 / sigma
        first = log_ndtr(mu / 2 - shifted / mu)
        second = shifted + log_ndtr(-mu / 2 - shifted / mu)
        return q * float(math.exp(first) * -math.expm1(second - first))

    bound = pld_epsilon(q, sigma, 1, delta)
    assert bound > 0
    assert delta_at(bound) <= delta
    assert delta_at(0.999 * bound) > 0.9 * delta


@pytest.mark.parametrize(("q", "sigma", "steps", "delta"), GRID[1:4] + GRID[7:9])
def test_rdp_is_opacus_minimum_over_all_orders(
    q: float, sigma: float, steps: int, delta: float
) -> None:
    from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

    orders = list(ORDERS)
    rdp = compute_rdp(q=q, noise_multiplier=sigma, steps=steps, orders=orders)
    expected, _ = get_privacy_spent(orders=orders, rdp=rdp, delta=delta)
    assert rdp_epsilon(q, sigma, steps, delta) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.filterwarnings("ignore:Optimal order")
@pytest.mark.parametrize(("q", "sigma", "steps", "delta"), GRID[1:3] + GRID[4:6])
def test_prv_is_the_upper_bound_of_opacus_prv_accountant(
    q: float, sigma: float, steps: int, delta: float
) -> None:
    from opacus.accountants import PRVAccountant

    error = accounting.prv_error(rdp_epsilon(q, sigma, steps, delta))
    opacus = PRVAccountant()
    opacus.history = [(sigma, q, steps)]
    expected = opacus.get_epsilon(delta, eps_error=error)
    # Transforms of another length round otherwise, and ours leave room for rounding.
    assert prv_epsilon(q, sigma, steps, delta, error) == pytest.approx(expected, rel=1e-7)


def test_the_chord_near_one_half_is_an_upper_bound_and_close() -> None:
    from opacus.accountants.analysis.rdp import compute_rdp

    for order in (1.5, 2.5, 7.5):
        exact = compute_rdp(q=0.5, noise_multiplier=25.0, steps=1, orders=[order])[0]
        assert exact <= rdp_of_one_step(0.5, 25.0, order) <= 1.4 * exact


@pytest.mark.parametrize(
    ("q", "steps", "delta", "sigma", "rdp", "prv", "pld"),
    [
        (1 / 15, 4500, 1e-5, 16.723, 1.0929, 1.0100, 1.0000),
        (1 / 15, 4500, 1e-5, 2.48715, 9.9993, 9.3052, 9.2948),
        (1 / 15, 4500, 1e-5, 82.5, 0.1938, None, 0.1751),
        (1 / 80, 24_000, 1e-6, 8.81757, 0.9999, None, 0.9275),
        (0.01, 1, 1e-5, 1.0, 0.956, 0.2091, 0.1995),
        (1.0, 1, 1e-5, 5.0, 0.795, None, 0.726),
    ],
)
def test_reference_epsilons_are_reproduced(
    q: float,
    steps: int,
    delta: float,
    sigma: float,
    rdp: float,
    prv: float | None,
    pld: float,
) -> None:
    bound = rdp_epsilon(q, sigma, steps, delta)
    assert bound == pytest.approx(rdp, abs=1e-3)
    assert pld_epsilon(q, sigma, steps, delta) == pytest.approx(pld, abs=1e-3)
    if prv is not None:
        error = accounting.prv_error(bound)
        assert prv_epsilon(q, sigma, steps, delta, error) == pytest.approx(prv, abs=1e-3)


@given(
    q=st.floats(1e-4, 1.0),
    sigma=st.floats(0.5, 100.0),
    steps=st.integers(1, 10_000),
    delta=st.floats(1e-9, 1e-2),
    grow=st.floats(1.01, 3.0),
)
@settings(max_examples=15, deadline=None)
def test_rdp_falls_with_sigma_and_delta_and_rises_with_rate_and_steps(
    q: float, sigma: float, steps: int, delta: float, grow: float
) -> None:
    base = rdp_epsilon(q, sigma, steps, delta)
    slack = 1e-9 * (1 + base)
    assert rdp_epsilon(q, sigma * grow, steps, delta) <= base + slack
    assert rdp_epsilon(q, sigma, steps, delta * grow) <= base + slack
    assert rdp_epsilon(min(1.0, q * grow), sigma, steps, delta) >= base - slack
    assert rdp_epsilon(q, sigma, math.ceil(steps * grow), delta) >= base - slack


@pytest.mark.parametrize("accountant", ["prv", "pld"])
@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ({"sigma": 5.0}, {"sigma": 5.05}),
        ({"steps": 1010}, {"steps": 1000}),
        ({"expected_batch_size": 606}, {"expected_batch_size": 600}),
        ({"delta": 9e-6}, {"delta": 1e-5}),
    ],
)
def test_claims_fall_with_sigma_and_delta_and_rise_with_rate_and_steps(
    accountant: str, worse: dict[str, Any], better: dict[str, Any]
) -> None:
    base = {"expected_batch_size": 600, "steps": 1000, "sigma": 5.0, "accountant": accountant}
    assert (
        claim(plan_with(**{**base, **worse})).epsilon
        > claim(plan_with(**{**base, **better})).epsilon
    )


# --- claims ------------------------------------------------------------------------------------


def test_a_claim_is_prvs_and_shows_every_accountant() -> None:
    made = claim(plan_with(sigma=17.0))
    assert (made.accountant, made.reason, made.delta) == ("prv", "", 1e-5)
    assert set(made.epsilon_by) == {"prv", "rdp", "pld"}
    assert made.epsilon == made.epsilon_by["prv"]


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_a_claim_is_made_by_the_accountant_of_the_plan(accountant: str) -> None:
    made = claim(plan_with(sigma=17.0, accountant=accountant))
    assert made.accountant == accountant
    assert made.epsilon == made.epsilon_by[accountant]


def test_fewer_steps_claim_less_and_no_step_claims_nothing() -> None:
    plan = plan_with(sigma=17.0)
    assert claim(plan, 1000).epsilon < claim(plan, 2000).epsilon < claim(plan).epsilon
    assert claim(plan, plan.steps) == claim(plan)
    for nothing in (0, -5, 1.5, math.nan):
        with pytest.raises(UsageError):
            claim(plan, nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sigma": 0.9}, "beyond 50"),
        ({"delta": 1e-13}, "rounding error"),
        ({"steps": 10**6, "delta": 1e-9}, "rounding error"),
        ({"steps": 4 * 10**8, "sigma": 1e5}, "grid"),
        ({"sigma": 1e9}, "1e+06"),
    ],
)
def test_where_prv_is_not_computable_rdp_claims_and_says_why(
    changes: dict[str, Any], reason: str
) -> None:
    made = claim(plan_with(**changes))
    assert made.accountant == "rdp"
    assert made.epsilon == made.epsilon_by["rdp"]
    assert reason in made.reason


@pytest.mark.usefixtures("unremembered")
@pytest.mark.parametrize("answer", [0.5, 2.0])
def test_prv_that_disagrees_with_the_others_does_not_claim(
    monkeypatch: pytest.MonkeyPatch, answer: float
) -> None:
    monkeypatch.setattr(accountants, "composed_prv_epsilon", lambda *_: answer)
    made = claim(plan_with(sigma=2.0, steps=40))
    assert made.epsilon == made.epsilon_by["rdp"]
    assert "disagree" in made.reason or "above RDP" in made.reason


def test_a_coarse_pld_is_refined_before_it_counts_as_disagreement() -> None:
    # At interval 1e-4 PLD rounds 10^5 tiny losses up, to twice the truth.
    plan = PrivacyPlan(
        dataset_size=100_000, expected_batch_size=1, steps=10**5, sigma=1.0, delta=1e-6
    )
    made = claim(plan)
    assert pld_epsilon(plan.sample_rate, 1.0, plan.steps, 1e-6) > 2 * made.epsilon_by["pld"]
    assert made.accountant != "rdp"
    assert made.epsilon <= made.epsilon_by["prv"] < 1.2 * made.epsilon_by["pld"]


def test_prv_on_a_coarser_grid_comes_before_rdp() -> None:
    # ImageNet: PRV with an error of 0.01 would need more points than there may be.
    q, sigma, steps, delta = 2048 / 1_281_167, 0.7362936, 187_670, 1e-7
    grid = accountants.prv_grid(((q, sigma, steps),), delta, 0.01)
    assert 0.01 < grid.eps_error < 0.02
    assert 2 * grid.half_width / grid.mesh == pytest.approx(accountants.MAX_PRV_POINTS)
    made = claim(
        plan_with(
            dataset_size=1_281_167, expected_batch_size=2048, sigma=sigma, steps=steps, delta=delta
        )
    )
    assert (made.accountant, made.reason) == ("prv", "")
    assert made.epsilon_by["pld"] <= made.epsilon < 0.95 * made.epsilon_by["rdp"]


SPARSE = {"dataset_size": 7_400_000, "expected_batch_size": 256, "steps": 157, "delta": 1e-8}


@pytest.mark.parametrize("sigma", [0.6, 0.8, 1.4])
def test_where_rdp_is_far_above_the_truth_the_claim_is_not(sigma: float) -> None:
    made = claim(plan_with(**SPARSE, sigma=sigma))
    assert made.epsilon_by["rdp"] > 10 * made.epsilon_by["pld"]
    assert made.epsilon_by["pld"] <= made.epsilon <= 1.02 * made.epsilon_by["pld"]
    # What PRV adds is 1 % of epsilon, or what four million points allow.
    assert made.epsilon_by["prv"] <= 1.02 * made.epsilon_by["pld"] + 2e-4


def test_where_prv_is_too_coarse_pld_claims_and_says_why() -> None:
    plan = plan_with(**SPARSE, sigma=1.4)
    made = claim(plan)
    assert made.accountant == "pld"
    assert made.epsilon == made.epsilon_by["pld"] < made.epsilon_by["prv"]
    assert "PRV's grid" in made.reason
    ledger = PublishedLedger(plan, 1, ("0" * 32,))
    assert private_statement(ledger, PUBLISHED).reason == "too coarse"
    assert claim(dataclasses.replace(plan, accountant="pld")).reason == ""


@pytest.mark.usefixtures("unremembered")
def test_where_prv_has_no_bound_pld_claims_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accountants, "composed_prv_epsilon", refuses)
    made = claim(plan_with(sigma=17.0))
    assert made.accountant == "pld"
    assert made.epsilon == made.epsilon_by["pld"]
    assert made.reason == "PRV is not computable here: replaced"


def refuses(*_: object) -> float:
    raise NotComputable("replaced")


@pytest.mark.usefixtures("unremembered")
@pytest.mark.parametrize("answer", [0.5, 2.0])
def test_releases_together_are_cross_checked_as_one_plan_is(
    monkeypatch: pytest.MonkeyPatch, answer: float
) -> None:
    parts = plan_with(sigma=2.0, steps=40).parts()
    assert compose(parts, 1e-5) == claim(plan_with(sigma=2.0, steps=40))
    accounting._bounds.cache_clear()
    monkeypatch.setattr(accountants, "composed_prv_epsilon", lambda *_: answer)
    together = compose([*parts, (1.0, 30.0, 2)], 1e-5)
    assert set(together.epsilon_by) == {"prv", "rdp", "pld"}
    assert together.epsilon == together.epsilon_by["rdp"]
    assert "disagree" in together.reason or "above RDP" in together.reason


def test_too_little_noise_is_refused_and_not_claimed() -> None:
    with pytest.raises(PrivacyError, match="no finite epsilon"):
        claim(plan_with(sigma=1e-3))


@pytest.mark.parametrize(
    "changes",
    [
        {"sigma": 1e-3},
        {"sigma": 0.011},
        {"sigma": 0.1},
        {"sigma": 0.9},
        {"sigma": 1e-300},
        {"sigma": 1e300},
        {"sigma": 1e5, "expected_batch_size": 30_000},
        {"sigma": 3e3, "expected_batch_size": 30_000, "steps": 10**6},
        {"steps": 10**6, "expected_batch_size": 60, "sigma": 1.0},
        {"steps": 10**9},
        {"delta": 1e-300},
        {"delta": 1e-12},
        {"expected_batch_size": 60_000, "sigma": 1e4},
        {"expected_batch_size": 1e-300, "sigma": 1e300},
        {"expected_batch_size": 1e-7, "steps": 10**6, "sigma": 30.0},
        {"expected_batch_size": 8000, "steps": 1_800_000, "sigma": 76.0},
        {"dataset_size": 1, "expected_batch_size": 1, "delta": 0.5},
        {"dataset_size": 1, "expected_batch_size": 1, "delta": 0.999, "sigma": 100.0},
    ],
)
def test_extreme_plans_get_a_safe_answer_or_a_refusal_in_seconds(changes: dict[str, Any]) -> None:
    begun = time.monotonic()
    try:
        made = claim(plan_with(**changes))
    except PrivacyError:
        assert changes["sigma"] < 0.01
    else:
        assert 0 <= made.epsilon < math.inf
        assert made.epsilon_by["rdp"] >= 0
    assert time.monotonic() - begun < 30


def test_delta_of_one_half_does_not_give_a_negative_epsilon() -> None:
    plan = PrivacyPlan(dataset_size=1, expected_batch_size=1, steps=1, sigma=3.0, delta=0.5)
    assert claim(plan).epsilon >= 0


# --- calibration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "epsilon", "accountant"),
    [
        (MNIST, 10, "prv"),
        (MNIST, 1, "prv"),
        (MNIST, 0.2, "prv"),
        (CELEBA, 1, "prv"),
        (MNIST, 10, "rdp"),
        (MNIST, 0.2, "rdp"),
        (MNIST, 1, "pld"),
        ({**MNIST, "steps": 1}, 1, "prv"),
        ({**MNIST, "expected_batch_size": 60_000, "steps": 10}, 3, "prv"),
        ({**MNIST, "expected_batch_size": 30_000, "steps": 40}, 8, "prv"),
    ],
)
def test_a_calibrated_plan_claims_at_most_its_target_and_wastes_little(
    facts: dict[str, Any], epsilon: float, accountant: str
) -> None:
    plan = calibrate(**facts, epsilon=epsilon, accountant=accountant)
    made = claim(plan)
    assert plan.accountant == made.accountant == accountant
    assert 0.995 * epsilon <= made.epsilon <= epsilon
    less = claim(dataclasses.replace(plan, sigma=0.98 * plan.sigma))
    assert less.epsilon > epsilon
    # Another group's code and another method: never above the target.
    independent = pld_epsilon(plan.sample_rate, plan.sigma, plan.steps, plan.delta)
    assert independent <= epsilon


@pytest.mark.parametrize(
    ("facts", "epsilon"),
    [
        (SPARSE, 0.5),
        ({**SPARSE, "steps": 2890}, 1.0),
        ({**SPARSE, "steps": 156}, 0.2),
        ({**MNIST, "dataset_size": 1_281_167, "expected_batch_size": 1024, "delta": 1e-7}, 0.5),
    ],
)
def test_no_plan_has_more_than_two_percent_too_much_noise(
    facts: dict[str, Any], epsilon: float
) -> None:
    """Where RDP is far above the truth, noise found by RDP would be up to 2.3 times what is needed."""
    plan = calibrate(**facts, epsilon=epsilon)
    assert accounting.TIGHTNESS * epsilon <= claim(plan).epsilon <= epsilon
    assert pld_epsilon(plan.sample_rate, 0.98 * plan.sigma, plan.steps, plan.delta, 1e-5) > epsilon


@pytest.mark.parametrize("reachable_from", [0.0, 0.9, 1.0, 1.2])
@pytest.mark.parametrize("guess", [0.1, 0.99, 1.5, 40.0])
def test_a_sigma_without_a_bound_is_on_the_unsafe_side(guess: float, reachable_from: float) -> None:
    """Epsilon falls steeply, and below some sigma there is no bound: the search neither gives up nor passes over it."""

    def bound(sigma: float) -> float:
        if sigma < reachable_from:
            raise NotComputable("beyond 50")
        return 0.5 * sigma**-10.0

    found = accounting._least_sigma(bound, 0.5, guess)
    assert found is not None
    assert max(1.0, reachable_from) <= found <= 1.002 * max(1.0, reachable_from)


def test_prv_needs_less_noise_than_rdp() -> None:
    prv = calibrate(**MNIST, epsilon=1).sigma
    assert 0.90 < prv / calibrate(**MNIST, epsilon=1, accountant="rdp").sigma < 0.96


def test_where_prv_cannot_reach_the_target_the_plan_names_rdp() -> None:
    plan = calibrate(**MNIST, epsilon=80)
    assert plan.accountant == "rdp"
    assert 0.995 * 80 <= claim(plan).epsilon <= 80


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"epsilon": 0}, UsageError),
        ({"epsilon": -1}, UsageError),
        ({"epsilon": math.nan}, UsageError),
        ({"epsilon": math.inf}, UsageError),
        ({"epsilon": "ten"}, UsageError),
        ({"epsilon": 1e4}, PrivacyError),
        ({"delta": 1 / 60_000}, PrivacyError),
        ({"delta": 0.0}, UsageError),
        ({"delta": math.nan}, UsageError),
        ({"steps": 0}, UsageError),
        ({"expected_batch_size": 60_001}, UsageError),
        ({"dataset_size": math.inf}, UsageError),
        ({"accountant": "gdp"}, PrivacyError),
    ],
)
def test_nonsense_is_refused_before_any_accountant_sees_it(
    changes: dict[str, Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(*_: object) -> float:
        raise AssertionError("an accountant was asked")

    for name in ("composed_rdp_epsilon", "composed_prv_epsilon", "composed_pld_epsilon"):
        monkeypatch.setattr(accountants, name, seen)
    with pytest.raises(error):
        calibrate(**{**MNIST, "epsilon": 1.0, **changes})


@pytest.mark.parametrize("accountant", ["prv", "rdp", "pld"])
@pytest.mark.parametrize("changes", [{"epsilon": 1e-4}, {"epsilon": 1e-3, "delta": 1e-15}])
def test_a_target_no_noise_reaches_is_refused_in_seconds(
    changes: dict[str, Any], accountant: str
) -> None:
    begun = time.monotonic()
    with pytest.raises(PrivacyError, match="cannot be claimed"):
        calibrate(**{**MNIST, **changes}, accountant=accountant)
    assert time.monotonic() - begun < 30


# --- the paper's convention --------------------------------------------------------------------

PAPER_MNIST = {"dataset_size": 60_000, "batch_size": 4096, "steps": 300 * 15, "delta": 1e-5}
PAPER_CELEBA = {"dataset_size": 162_770, "batch_size": 2048, "steps": 300 * 80, "delta": 1e-6}


@pytest.mark.parametrize(
    ("facts", "epsilon", "sigma"),
    [
        (PAPER_MNIST, 0.2, 82.5),
        (PAPER_MNIST, 1, 18.28125),
        (PAPER_MNIST, 10, 2.48779296875),
        (PAPER_CELEBA, 1, 8.828125),
        (PAPER_CELEBA, 10, 1.3037109375),
    ],
)
def test_the_papers_sigmas_are_reproduced_to_the_last_digit(
    facts: dict[str, Any], epsilon: float, sigma: float
) -> None:
    plan = calibrate_like_paper(**facts, epsilon=epsilon)
    assert plan.sigma == sigma
    assert plan.accountant == "rdp"
    assert rdp_epsilon(plan.sample_rate, sigma, plan.steps, plan.delta) <= epsilon


@pytest.mark.parametrize(("size", "batch", "epsilon"), [(1438, 256, 4.0), (5000, 64, 30.0)])
def test_the_papers_search_is_that_of_opacus(size: int, batch: int, epsilon: float) -> None:
    from opacus.accountants.utils import get_noise_multiplier

    loader = math.ceil(size / batch)
    plan = calibrate_like_paper(
        dataset_size=size, batch_size=batch, steps=50 * loader, delta=1e-4, epsilon=epsilon
    )
    assert plan.sigma == get_noise_multiplier(
        target_epsilon=epsilon,
        target_delta=1e-4,
        sample_rate=1 / loader,
        steps=50 * loader,
        alphas=list(PAPER_ORDERS),
    )


def test_the_papers_plan_runs_at_the_papers_rate() -> None:
    plan = calibrate_like_paper(**PAPER_MNIST, epsilon=10)
    assert plan.sample_rate == 1 / 15
    assert plan.divisor == 4000


def test_the_papers_sigma_at_the_exact_rate_would_overrun_its_claim() -> None:
    assert rdp_epsilon(Q_MNIST, 2.48779296875, 4394, 1e-5) > 10


# --- files and numbers -------------------------------------------------------------------------


def written(path: Path, **changes: Any) -> PrivacyPlan:
    plan = plan_with(sigma=17.0)
    write_plan_file(path, dataclasses.replace(planned(plan), **changes))
    return plan


def test_an_honest_plan_file_passes(tmp_path: Path) -> None:
    plan = written(tmp_path / "plan.json")
    assert check_plan_file(tmp_path / "plan.json") == (plan, claim(plan))


def test_a_plan_file_that_states_too_little_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "plan.json", epsilon=0.9)
    with pytest.raises(PrivacyError, match=r"0\.9"):
        check_plan_file(tmp_path / "plan.json")


@pytest.mark.parametrize("epsilon", ["1.0", None, True, [1.0]])
def test_a_plan_file_whose_epsilon_is_no_number_is_damaged(tmp_path: Path, epsilon: Any) -> None:
    written(tmp_path / "plan.json", epsilon=epsilon)
    with pytest.raises(DamagedFileError, match="epsilon"):
        check_plan_file(tmp_path / "plan.json")


def test_a_plan_file_whose_epsilon_is_nan_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "plan.json")
    values = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "nan.json").write_text(json.dumps({**values, "epsilon": math.nan}))
    with pytest.raises(DamagedFileError, match="NaN"):
        check_plan_file(tmp_path / "nan.json")


@pytest.mark.parametrize(
    ("value", "digits", "rounded"),
    [
        (9.9999, 2, 10.0),
        (10.0001, 2, 10.01),
        (10.0, 2, 10.0),
        (0.07, 2, 0.07),
        (1e-5, 2, 0.01),
        (1e-5, 5, 1e-5),
        (0.0, 3, 0.0),
        (10.01, 2, 10.01),
        (2.4828, 0, 3.0),
        (math.inf, 2, math.inf),
    ],
)
def test_rounding_goes_up_and_leaves_round_numbers(
    value: float, digits: int, rounded: float
) -> None:
    assert round_up(value, digits) == rounded


@given(value=st.floats(0, 1e6), digits=st.integers(0, 6))
@settings(max_examples=200, deadline=None)
def test_rounding_is_never_down_and_never_a_whole_digit_up(value: float, digits: int) -> None:
    rounded = round_up(value, digits)
    assert value <= rounded < value + 1.000001 * 10.0**-digits


def test_a_printed_claim_is_rounded_up() -> None:
    made = claim(plan_with(sigma=17.0))
    for epsilon, text in ((9.9999, "10.00"), (10.0001, "10.01"), (0.19981, "0.1999")):
        assert dataclasses.replace(made, epsilon=epsilon).epsilon_text == text


def test_not_computable_is_for_the_accountants_alone() -> None:
    with pytest.raises(NotComputable):
        prv_epsilon(Q_MNIST, 0.5, 4394, 1e-5, 0.01)
    with pytest.raises(NotComputable):
        pld_epsilon(Q_MNIST, 0.2, 4394, 1e-5)
