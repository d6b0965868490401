"""Lower bounds on epsilon: right on average, wrong no more often than they say."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest

from dpdm_cli.privacy.audit.lower_bounds import (
    _guessing,
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
    games = [drawn(mu, 100, seed) for seed in range(200)]
    allowed = 0.05 * 200 + 3 * math.sqrt(200 * 0.05 * 0.95)
    assert not any(one_run(*game, DELTA, 0.05) > truth for game in games[:60])  # far below it
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


# What follows is derived here from the definitions, without a quantile function of scipy.


def solved(function: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Where a rising function reaches a value."""
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < target else (low, middle)
    return low


def at_least(k: int, n: int, p: float) -> float:
    """P(X >= k) of a binomial X."""
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def normal_cdf(x: float) -> float:
    """To the last digit also far below zero."""
    return math.erfc(-x / math.sqrt(2)) / 2


def epsilon_of(mu: float) -> float:
    """Of N(0, 1) against N(mu, 1) at DELTA."""

    def covered(e: float) -> float:
        return math.exp(e) * normal_cdf(-mu / 2 - e / mu) - normal_cdf(mu / 2 - e / mu)

    return solved(covered, -DELTA, 0.0, 60.0)


def scores(above: int, at: int, below: int) -> np.ndarray:
    """So many scores above, at and below a threshold of one half."""
    return np.repeat([1.5, 0.5, -0.25], [above, at, below])


@pytest.mark.parametrize(
    ("found", "false"), [(40, 4), (25, 1), (47, 30), (49, 0), (50, 2), (0, 0), (50, 60), (3, 50)]
)
@pytest.mark.parametrize("risk", [0.05, 1e-4])
def test_clopper_pearson_on_fixed_scores(found: int, false: int, risk: float) -> None:
    """50 canaries taken, 60 left out; a score at the threshold is not above it."""
    at = min(3, 50 - found), min(5, 60 - false)
    taken = scores(found, at[0], 50 - found - at[0])
    left_out = scores(false, at[1], 60 - false - at[1])
    # The exact limits: at which so many or more, and so few or fewer, have half the risk.
    least = 0.0 if not found else solved(lambda p: at_least(found, 50, p), risk / 2, 0.0, 1.0)
    most = 1.0
    if false < 60:
        most = solved(lambda p: at_least(false + 1, 60, p), 1 - risk / 2, 0.0, 1.0)
    expected = 0.0
    if least > most:
        expected = epsilon_of(NormalDist().inv_cdf(least) - NormalDist().inv_cdf(most))
    assert clopper_pearson(taken, left_out, 0.5, DELTA, risk) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mu", [0.3, 1.0, 3.0])
def test_clopper_pearson_is_wrong_no_more_often_than_that_to_the_last_digit(mu: float) -> None:
    """Not by draws: over all numbers of scores above the threshold that there can be."""
    n, risk, truth = 30, 0.05, epsilon_of(mu)
    right = normal_cdf(mu / 2)
    wrong = 0.0
    false = -1  # the bound is too high with at most so many false ones; more, the more are found
    for found in range(n + 1):
        while false < n and (
            clopper_pearson(
                scores(found, 0, n - found), scores(false + 1, 0, n - false - 1), 0.5, DELTA, risk
            )
            > truth
        ):
            false += 1
        of_found = math.comb(n, found) * right**found * (1 - right) ** (n - found)
        wrong += of_found * (1 - at_least(false + 1, n, 1 - right))
    assert 0 < wrong <= risk


def of_guesses(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> Fraction:
    """How likely so many right guesses are at most (Steinke et al. 2023, theorem 5.2), in exact arithmetic."""
    chance = Fraction(1 / (1 + math.exp(-epsilon)))
    of = [
        math.comb(guesses, k) * chance**k * (1 - chance) ** (guesses - k)
        for k in range(guesses + 1)
    ]
    below = [sum(of[right - i : right]) / i for i in range(1, right + 1)]
    return sum(of[right:], Fraction(0)) + 2 * canaries * Fraction(delta) * max(below, default=0)


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-3])
@pytest.mark.parametrize("swapped", [0, 1, 4])
def test_one_run_on_fixed_scores(swapped: int, delta: float) -> None:
    """20 canaries taken and 20 left out in perfect order, but for the first few, which are taken for the others."""
    taken, left_out = np.arange(40.0, 20.0, -1), np.arange(0.0, 20.0)
    taken[:swapped], left_out[:swapped] = left_out[:swapped].copy(), taken[:swapped].copy()
    found = one_run(taken, left_out, delta, 0.05)

    def ruled_out(epsilon: float) -> bool:
        """By 0.05, 0.1, 0.25 or 0.5 of the canaries, guessed at either end."""
        return any(
            of_guesses(40, 2 * each, 2 * each - 2 * min(swapped, each), epsilon, delta) <= 0.05 / 4
            for each in (2, 4, 10, 20)
        )

    assert ruled_out(found - 1e-7)
    assert not ruled_out(found + 1e-7)
    if not swapped and not delta:  # 40 right guesses of 40: chance^40 = 0.05 / 4
        chance = (0.05 / 4) ** (1 / 40)
        assert found == pytest.approx(math.log(chance / (1 - chance)))


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_guesses_are_wrong_about_epsilon_no_more_often_than_that_to_the_last_digit(
    epsilon: float,
) -> None:
    """Randomised response gives as many right guesses as its epsilon allows; there the bound is exact."""
    guesses, risk = 60, 0.05
    chance = 1 / (1 + math.exp(-epsilon))
    first = next(right for right in range(61) if _guessing(60, guesses, right, 0.0, risk) > epsilon)
    assert at_least(first, guesses, chance) <= risk < at_least(first - 1, guesses, chance)


NODES, WEIGHTS = np.polynomial.legendre.leggauss(150)


def beyond(statistic: float, degrees: int, distance: float) -> float:
    """P(T > statistic) of a non-central t: the mean of P(Z + distance > statistic s) over the deviation s."""
    half = min(1.0, 10 / math.sqrt(2 * degrees))
    s = 1 + half * NODES
    squares = degrees * s**2  # chi-square
    log_density = (degrees / 2 - 1) * np.log(squares / 2) - squares / 2 - math.lgamma(degrees / 2)
    tails = np.array([normal_cdf(distance - statistic * x) for x in s])
    return float((half * WEIGHTS * degrees * s * np.exp(log_density) * tails).sum())


@pytest.mark.parametrize("shift", [0.1, 0.9, 2.5, 6.0])
@pytest.mark.parametrize("risk", [0.05, 1e-5])
def test_the_bound_by_means_on_fixed_scores(shift: float, risk: float) -> None:
    taken, left_out = np.linspace(-1.7, 1.7, 40) + shift, np.linspace(-1.8, 1.8, 25) ** 3 / 2
    squares = ((taken - taken.mean()) ** 2).sum() + ((left_out - left_out.mean()) ** 2).sum()
    scale = math.sqrt(1 / 40 + 1 / 25)
    statistic = float((taken.mean() - left_out.mean()) / math.sqrt(squares / 63) / scale)
    assert beyond(0.0, 63, 0.0) == pytest.approx(0.5)
    expected = 0.0
    if beyond(statistic, 63, 0.0) < risk:
        distance = solved(lambda d: beyond(statistic, 63, d), risk, 0.0, 60.0)
        expected = epsilon_of(distance * scale)
    assert gaussian_mean(taken, left_out, DELTA, risk) == pytest.approx(expected, abs=1e-5)


def test_equal_scores_prove_nothing() -> None:
    """As of a release that is zero everywhere."""
    same = np.zeros(100)
    assert clopper_pearson(same, same, 0.0, DELTA, 0.05) == 0
    assert gaussian_mean(same, same, DELTA, 0.05) == 0
    assert one_run(same, same, DELTA, 0.05) == 0
