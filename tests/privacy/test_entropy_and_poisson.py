"""Secret draws: their statistics, and that impostors are noticed."""

from __future__ import annotations

import math
import os
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from scipy import stats
from support import tiny
from support.poisson_statistics import poisson_p_value

from dpdm_cli.privacy.entropy import Entropy, _block, bernoulli, standard_normal
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


def test_the_sampler_draws_every_record_independently_at_rate_q() -> None:
    masks = live_masks()
    assert poisson_p_value(masks, RATE) > 1e-6
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
    assert poisson_p_value(masks, RATE) < 1e-6


def test_dropping_empty_batches_is_rejected() -> None:
    masks = np.random.default_rng(3).random((STEPS, 60)) < RATE
    assert poisson_p_value(masks, RATE) > 1e-6
    assert poisson_p_value(masks[masks.any(1)], RATE) < 1e-6


def test_two_samplers_never_draw_alike() -> None:
    assert not (live_masks()[:20] == live_masks()[:20]).all(1).any()


@pytest.mark.parametrize("probability", [1e-8, 1e-3, 0.05, 0.2, 0.3, 0.9])
def test_the_number_in_a_block_is_binomial_and_never_too_large(probability: float) -> None:
    size, thresholds = _block(probability)
    assert size & (size - 1) == 0
    small = min(size, 64)  # exact fractions of the largest blocks would take minutes
    if small < size:
        mean = sum(1 - int(t) / 2**64 for t in thresholds)
        assert mean == pytest.approx(size * probability, rel=1e-12)
        return
    q, at_most = Fraction(probability), Fraction(0)
    for k in range(size):
        at_most += math.comb(size, k) * q**k * (1 - q) ** (size - k)
        threshold = Fraction(int(thresholds[k]) if k < len(thresholds) else 2**64, 2**64)
        assert 0 <= threshold - at_most <= Fraction(1, 2**64)


@pytest.mark.parametrize("probability", [1e-8, 0.05, 0.3])
def test_a_word_beyond_the_threshold_is_a_success(probability: float) -> None:
    size, thresholds = _block(probability)
    edges = np.array([thresholds[0] - np.uint64(1), thresholds[0]], dtype=np.uint64)
    words = iter([edges.tobytes()])

    def entropy(count: int) -> bytes:
        return next(words, bytes(count))

    assert bernoulli(probability, 2 * size, entropy).tolist() == [size]


def test_every_pair_of_places_in_a_block_is_as_likely() -> None:
    size, _ = _block(0.05)
    drawn = bernoulli(0.05, 400_000 * size)
    blocks, counts = np.unique(drawn // size, return_counts=True)
    pairs = drawn[np.isin(drawn // size, blocks[counts == 2])].reshape(-1, 2) % size
    table = np.bincount(pairs[:, 0] * size + pairs[:, 1], minlength=size * size)
    possible = [a * size + b for a in range(size) for b in range(a + 1, size)]
    assert table.sum() == table[possible].sum()  # two different places, in order
    assert stats.chisquare(table[possible]).pvalue > 1e-6


def test_few_among_ten_million_take_milliseconds() -> None:
    words = 0

    def counted(count: int) -> bytes:
        nonlocal words
        words += count // 8
        return os.urandom(count)

    drawn = bernoulli(4e-4, 10_000_000, counted)
    assert abs(len(drawn) - 4000) < 6 * math.sqrt(4000)
    assert (np.diff(drawn, prepend=-1, append=10_000_000) > 0).all()
    assert words < 10_000_000 / 300  # what time is spent on


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


def unlikely(zeros: int, seed: int = 0) -> Entropy:
    """Bytes whose words, those that are asked for first and become radii, begin with so many zeros."""
    random, first = np.random.default_rng(seed), True

    def entropy(count: int) -> bytes:
        nonlocal first
        words = np.frombuffer(random.bytes(count), dtype=np.uint64).copy()
        if first:
            words[: len(words) // 2] >>= np.uint64(zeros)
        first = False
        return words.tobytes()

    return entropy


def pairs_of(normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = normal.reshape(2, -1)
    return np.hypot(first, second), np.arctan2(second, first)


@pytest.mark.parametrize("zeros", [0, 11, 12, 40, 52, 60, 63])
def test_the_tail_is_that_of_the_normal_distribution_however_far_out(zeros: int) -> None:
    radius, angle = pairs_of(standard_normal(20_000, unlikely(zeros)))
    # Given that the uniform is below 2^-zeros, half the squared radius is beyond zeros * log(2) by an exponential.
    beyond = radius**2 / 2 - zeros * math.log(2)
    assert stats.kstest(beyond, "expon").pvalue > 1e-5
    assert stats.kstest(angle, "uniform", (-math.pi, 2 * math.pi)).pvalue > 1e-5
    # More than 53 bits allow: on the public grid few are alike, by chance.
    cells = np.unique(np.round(radius * 2**20))
    assert len(cells) > 0.95 * len(radius)


def test_normals_go_beyond_what_53_bits_reach() -> None:
    radius, _ = pairs_of(standard_normal(20_000, unlikely(60)))
    assert radius.min() > 9 > math.sqrt(2 * 53 * math.log(2))
    assert pairs_of(standard_normal(2, bytes))[0] == pytest.approx(
        math.sqrt(2 * 128 * math.log(2)), rel=1e-12
    )


@pytest.mark.parametrize("zeros", [0, 5, 30])
def test_a_normal_is_off_by_no_more_than_its_docstring_says(zeros: int) -> None:
    asked: list[np.ndarray] = []
    source = unlikely(zeros)

    def entropy(count: int) -> bytes:
        asked.append(np.frombuffer(source(count), dtype=np.uint64))
        return asked[-1].tobytes()

    found = standard_normal(1_000, entropy).reshape(2, -1)
    (radii, angles), more = asked[0].reshape(2, -1), iter(np.concatenate([*asked[1:], []]).tolist())
    with mpmath.workdps(60):
        for index, (word, turn) in enumerate(zip(radii.tolist(), angles.tolist(), strict=True)):
            rest = int(next(more)) + 1 if word < 1 << 53 else 0
            uniform = (mpmath.mpf(word) + mpmath.mpf(rest) / 2**64) / 2**64
            radius = mpmath.sqrt(-2 * mpmath.log(uniform))
            turned = mpmath.mpf(turn) * mpmath.pi / 2**63
            off = (
                abs(radius * mpmath.cos(turned) - found[0, index]),
                abs(radius * mpmath.sin(turned) - found[1, index]),
            )
            assert max(off) < 2.0**-53 * (9 * radius + 1 / radius)


def test_normals_are_a_function_of_the_bytes_they_are_given() -> None:
    draws = [standard_normal(40_001, unlikely(8, seed)) for seed in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1])
    assert not (draws[0] == draws[2]).any()


@pytest.mark.parametrize("count", [1, 2, 3, 40_000])
def test_every_normal_takes_64_bits(count: int) -> None:
    taken = 0

    def counted(size: int) -> bytes:
        nonlocal taken
        taken += size
        return os.urandom(size)

    standard_normal(count, counted)
    assert 8 * count <= taken <= 8 * count + 8 + count / 32
