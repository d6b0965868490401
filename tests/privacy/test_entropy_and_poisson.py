"""Secret draws: their statistics, and that impostors are noticed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
from scipy import stats

from dpdm_cli.privacy.entropy import bernoulli, standard_normal
from dpdm_cli.privacy.poisson import PoissonSampler

RECORDS, RATE, STEPS = 200, 0.05, 2000


def live_masks() -> np.ndarray:
    """Which record took part in which step, [steps, records], from the package's sampler."""
    plan = tiny.plan(dataset_size=RECORDS, expected_batch_size=RATE * RECORDS)
    sampler = PoissonSampler(plan)
    masks = np.zeros((STEPS, RECORDS), dtype=bool)
    for mask in masks:
        mask[sampler.draw(RECORDS).numpy()] = True
    return masks


def poisson_p_value(masks: np.ndarray) -> float:
    """Smallest p-value, with Bonferroni, of tests that Poisson sampling at RATE must pass."""
    steps, records = masks.shape
    draws = masks.size
    p_values = [stats.binomtest(int(masks.sum()), draws, RATE).pvalue]
    sizes = masks.sum(1)
    spread = (sizes.var(ddof=1) / (records * RATE * (1 - RATE))) * (steps - 1)
    p_values.append(2 * min(stats.chi2.cdf(spread, steps - 1), stats.chi2.sf(spread, steps - 1)))
    counts = masks.sum(0)
    spread = (counts.var(ddof=1) / (steps * RATE * (1 - RATE))) * (records - 1)
    p_values.append(
        2 * min(stats.chi2.cdf(spread, records - 1), stats.chi2.sf(spread, records - 1))
    )
    centred = masks - RATE
    for lag in (1, 2, round(1 / RATE)):
        z = (centred[lag:] * centred[:-lag]).sum() / (
            RATE * (1 - RATE) * math.sqrt(centred[lag:].size)
        )
        p_values.append(2 * stats.norm.sf(abs(z)))
    empty = int((sizes == 0).sum())
    p_values.append(stats.binomtest(empty, steps, (1 - RATE) ** records).pvalue)
    return min(1.0, len(p_values) * min(p_values))


def test_the_sampler_draws_every_record_independently_at_rate_q() -> None:
    masks = live_masks()
    assert poisson_p_value(masks) > 1e-6
    z = np.corrcoef(masks.T)[np.triu_indices(RECORDS, 1)] * math.sqrt(STEPS)
    assert abs(z).max() < 8  # skewed binary data: a normal p-value would alarm too often


def shuffled(random: np.random.Generator) -> np.ndarray:
    size = round(RECORDS * RATE)
    masks = np.zeros((STEPS, RECORDS), dtype=bool)
    for step in range(STEPS):
        if step % (RECORDS // size) == 0:
            order = random.permutation(RECORDS)
        masks[step, order[:size]] = True
        order = np.roll(order, -size)
    return masks


def fixed_size(random: np.random.Generator) -> np.ndarray:
    masks = np.zeros((STEPS, RECORDS), dtype=bool)
    for mask in masks:
        mask[random.choice(RECORDS, round(RECORDS * RATE), replace=False)] = True
    return masks


def rate_too_high(random: np.random.Generator) -> np.ndarray:
    return random.random((STEPS, RECORDS)) < 1.05 * RATE


def truncated(random: np.random.Generator) -> np.ndarray:
    masks = random.random((STEPS, RECORDS)) < RATE
    for mask in masks:
        mask[np.flatnonzero(mask)[round(RECORDS * RATE) :]] = False
    return masks


def repeated(random: np.random.Generator) -> np.ndarray:
    once = random.random((STEPS // 2, RECORDS)) < RATE
    return np.repeat(once, 2, axis=0)


def same_on_both_halves(random: np.random.Generator) -> np.ndarray:
    half = random.random((STEPS, RECORDS // 2)) < RATE
    return np.concatenate([half, half], axis=1)


@pytest.mark.parametrize(
    "impostor", [shuffled, fixed_size, rate_too_high, truncated, repeated, same_on_both_halves]
)
def test_impostors_are_rejected(impostor: object) -> None:
    masks = impostor(np.random.default_rng(3))  # type: ignore[operator]
    assert poisson_p_value(masks) < 1e-6


def test_dropping_empty_batches_is_rejected() -> None:
    masks = np.random.default_rng(3).random((STEPS, 60)) < RATE
    assert poisson_p_value(masks) > 1e-6
    assert poisson_p_value(masks[masks.any(1)]) < 1e-6


def test_two_samplers_never_draw_alike() -> None:
    assert not (live_masks()[:20] == live_masks()[:20]).all(1).any()


@pytest.mark.parametrize("probability", [1e-8, 1e-3, 0.3])
def test_the_threshold_is_exact_and_never_above_the_probability(probability: float) -> None:
    edge = int(probability * 2**64)

    def words(count: int) -> bytes:
        values = [edge - 2**12, edge + 2**12, 0, 2**64 - 1]
        return np.array(values[: count // 8], dtype=np.uint64).tobytes()

    assert bernoulli(probability, 4, words).tolist() == [0, 2]


def test_certainty_and_impossibility() -> None:
    assert bernoulli(1.0, 5).tolist() == [0, 1, 2, 3, 4]
    assert bernoulli(0.0, 5).tolist() == []
    assert bernoulli(0.5, 0).tolist() == []


def test_normals_are_normal_to_the_tails() -> None:
    draws = standard_normal(1_000_001)
    assert len(draws) == 1_000_001
    assert stats.kstest(draws, "norm").pvalue > 1e-5
    assert abs(stats.kurtosis(draws)) < 6 * math.sqrt(24 / len(draws))
    assert 4.2 < abs(draws).max() < 7


@pytest.mark.parametrize("filling", [0, 255])
def test_extreme_bytes_give_finite_normals(filling: int) -> None:
    assert np.isfinite(standard_normal(8, lambda count: bytes([filling]) * count)).all()
