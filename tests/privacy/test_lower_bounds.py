"""Lower bounds on epsilon: right on average, wrong no more often than they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dpdm_cli.privacy.lower_bounds import (
    clopper_pearson,
    gaussian_epsilon,
    gaussian_mean,
    one_run,
)

DELTA = 1e-5


@pytest.mark.parametrize(("mu", "epsilon"), [(0.3, 1.13), (1.0, 4.38), (1.87, 9.21), (3.0, 16.7)])
def test_a_gaussian_mechanisms_epsilon(mu: float, epsilon: float) -> None:
    assert gaussian_epsilon(mu, DELTA) == pytest.approx(epsilon, rel=0.01)
    found = gaussian_epsilon(mu, DELTA)
    phi = lambda x: 0.5 * math.erfc(-x / math.sqrt(2))  # noqa: E731
    delta = phi(-found / mu + mu / 2) - math.exp(found) * phi(-found / mu - mu / 2)
    assert delta == pytest.approx(DELTA, rel=1e-4)


def drawn(mu: float, each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(mu, 1, each), generator.normal(0, 1, each)


@pytest.mark.parametrize("mu", [0.3, 1.0, 3.0])
def test_a_bound_at_95_percent_fails_no_more_often_than_that(mu: float) -> None:
    truth = gaussian_epsilon(mu, DELTA)
    games = [drawn(mu, 100, seed) for seed in range(120)]
    allowed = 0.05 * 120 + 3 * math.sqrt(120 * 0.05 * 0.95)
    assert sum(one_run(*game, DELTA, 0.05) > truth for game in games) <= allowed
    assert sum(clopper_pearson(*game, mu / 2, DELTA, 0.05) > truth for game in games) <= allowed
    means = [gaussian_mean(*game, DELTA, 0.05) for game in games]
    assert sum(found > truth for found in means) <= allowed
    assert sum(found > 0.95 * truth for found in means) >= 1  # nor is it far from it


def test_the_bounds_of_privacys_own_table() -> None:
    """m = 1000 canaries at mu 1.87: about 2.2 by one run, 6.9 by error rates, 7.3 by means (averages of draws)."""
    games = [drawn(1.87, 500, seed) for seed in range(20)]
    by_run = np.mean([one_run(*game, DELTA, 0.05) for game in games])
    by_rates = np.mean([clopper_pearson(*game, 1.87 / 2, DELTA, 0.05) for game in games])
    by_means = np.mean([gaussian_mean(*game, DELTA, 0.05) for game in games])
    assert 1.5 < by_run < 3.2
    assert 6.0 < by_rates < 8.2
    assert 7.0 < by_means < 8.8


def test_without_noise_the_bounds_are_as_large_as_they_can_be() -> None:
    taken, left_out = np.full(500, 7.0), np.zeros(500)
    assert gaussian_mean(taken, left_out, DELTA, 0.05) == math.inf
    assert clopper_pearson(taken, left_out, 3.5, DELTA, 0.05) > 20
    assert 4.0 < one_run(taken, left_out, DELTA, 0.05) < math.log(1000)


def test_nothing_is_proved_by_nothing() -> None:
    some = np.random.default_rng(0).normal(size=200)
    assert one_run(some[:100], some[:100], DELTA, 0.05) == 0
    assert gaussian_mean(some[:100], some[:100], DELTA, 0.05) == 0
    assert clopper_pearson(some[:100], some[:100], 0.0, DELTA, 0.05) == 0
    assert gaussian_mean(some[:1], some[1:2], DELTA, 0.05) == 0
