"""Each accountant's bound is an upper bound, close to the others, and no rounding takes it below the truth."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import log_ndtr
from support.accounting import (
    Q_CELEBA,
    Q_MNIST,
    plan_with,
    pld_epsilon,
    prv_epsilon,
    rdp_epsilon,
)

from dpdm_cli.privacy.accounting import accountants
from dpdm_cli.privacy.accounting import claims as accounting
from dpdm_cli.privacy.accounting.accountants import (
    ORDERS,
    NotComputable,
    composed_pld_deltas,
    rdp_of_one_step,
)
from dpdm_cli.privacy.accounting.claims import (
    claim,
)

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


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The exact epsilon of a Gaussian mechanism: Balle and Wang 2018, theorem 8."""

    def excess(epsilon: float) -> float:
        first = log_ndtr(mu / 2 - epsilon / mu)
        second = epsilon + log_ndtr(-mu / 2 - epsilon / mu)
        return float(first + math.log1p(-math.exp(second - first)) - math.log(delta))

    return float(brentq(excess, 1e-9, 500))


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


@pytest.mark.parametrize(
    "parts",
    [
        ((1.0, 0.9997773, 1), (256 / 60_000, 0.4442786, 300)),
        ((64 / 719, 1.2, 150),),
        ((0.5, 20.0, 3),),
        ((1.0, 0.3, 1),),
    ],
)
def test_deltas_are_those_of_dp_accounting_of_the_same_distribution(
    parts: tuple[tuple[float, float, int], ...],
) -> None:
    # On a loss of the grid, between two, equal ones, far beyond the last loss.
    epsilons = [0.0, 1e-4, 0.5, 0.50003, 0.50003, 3.0, 20.0, 300.0]
    interval = accountants.pld_interval(parts, 1e-5, 1e-4)
    loss = accountants._composed_loss(parts, interval, accountants._gaussian_loss)
    with accountants.quiet():
        theirs = loss.get_delta_for_epsilon(epsilons)
    slack = accountants._rounding(sum(steps for *_, steps in parts))
    ours = composed_pld_deltas(parts, epsilons, 1e-5)
    assert ours == pytest.approx([min(1.0, value + slack) for value in theirs], rel=1e-11)
