"""Mu of Gaussian differential privacy is a bound, and its regret says how good a one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian
from scipy.stats import norm

from dpdm_cli.privacy.accounting.attack_risk import _EPSILONS
from dpdm_cli.privacy.accounting.gaussian_dp import fitted, gaussian_delta, gaussian_mu

AT = np.asarray(_EPSILONS)


@pytest.mark.parametrize("mu", [0.01, 0.3, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-9])
def test_the_closed_form_is_dp_accountings(mu: float, delta: float) -> None:
    epsilon = get_epsilon_gaussian(1 / mu, delta)
    assert gaussian_delta(np.array([epsilon]), mu)[0] == pytest.approx(delta, rel=1e-5)
    if epsilon > 0:
        assert gaussian_mu(epsilon, delta) == pytest.approx(mu, rel=1e-6)


@pytest.mark.parametrize("mu", [0.02, 0.5, 1.0, 3.0])
def test_a_gaussian_is_fitted_by_itself_without_regret(mu: float) -> None:
    fit = fitted(_EPSILONS, gaussian_delta(AT, mu), 1e-6)
    assert fit is not None
    assert mu <= fit.mu <= mu + 2e-4
    assert fit.regret <= 1e-4


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0])
def test_randomised_response_has_the_mu_of_its_corner_and_a_regret(epsilon: float) -> None:
    """Gomez et al., proposition 6.1; the regret by its definition over error rates."""
    deltas = np.maximum(0, math.exp(epsilon) - np.exp(AT)) / (1 + math.exp(epsilon))
    fit = fitted(_EPSILONS, deltas, 1e-6)
    assert fit is not None
    assert fit.mu == pytest.approx(-2 * norm.ppf(1 / (math.exp(epsilon) + 1)), abs=3e-3)
    rates = np.linspace(0, 1, 2001)

    def below(shift: float) -> bool:
        moved = np.minimum(rates + shift, 1)
        own = np.maximum(1 - math.exp(epsilon) * moved, math.exp(-epsilon) * (1 - moved)) - shift
        return bool(np.all(own <= norm.cdf(norm.isf(rates) - fit.mu)))

    assert below(fit.regret + 1e-3)
    assert not below(fit.regret - 2e-3)


def test_no_mu_is_given_where_none_holds_down_to_delta() -> None:
    assert fitted(_EPSILONS, np.full(len(AT), 1e-3), 1e-5) is None


def test_the_bound_holds_between_the_points_it_was_fitted_at() -> None:
    fine = np.linspace(0, 12, 200_001)
    for mu in (0.05, 0.7, 2.0):
        fit = fitted(_EPSILONS, 1.01 * gaussian_delta(AT, mu), 1e-7)
        assert fit is not None
        wanted = np.minimum(1, 1.01 * gaussian_delta(fine, mu))
        short = wanted - gaussian_delta(fine, fit.mu)
        assert short[wanted > 1e-7].max() <= 0
