"""The measures that the checks judge by: right where all is right, and exact about what they count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpdm_cli.privacy.audit import deviations
from dpdm_cli.privacy.audit.deviations import (
    binomial_z,
    cells_z,
    count_z,
    lags_z,
    limit_of_worst,
    together_z,
)
from dpdm_cli.privacy.audit.findings import Z_LIMIT


def test_the_worst_of_many_passes_its_limit_as_rarely_as_one_passes_its_own() -> None:
    from scipy.stats import norm

    assert limit_of_worst(1) == pytest.approx(Z_LIMIT)
    for many in (10, 1000, 10**7):
        assert many * norm.sf(limit_of_worst(many)) == pytest.approx(norm.sf(Z_LIMIT))


def test_equal_cells_deviate_like_a_normal_variable() -> None:
    random = np.random.default_rng(0)
    found = [
        cells_z(torch.from_numpy(random.multinomial(6400, [1 / 64] * 64))) for _ in range(1000)
    ]
    assert abs(np.mean(found)) < 0.15
    assert np.std(found) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("mean", "variance"), [(0.4, 0.4), (30.0, 30.0), (1000.0, 3000.0)])
def test_numbers_of_coincidences_deviate_like_a_normal_variable_at_most(
    mean: float, variance: float
) -> None:
    from scipy.stats import norm

    stretch = variance / mean
    counts = stretch * np.random.default_rng(1).poisson(mean / stretch, 2000)
    found = np.array([count_z(count, mean, variance) for count in counts])
    for beyond in (1.0, 2.0, 3.0):
        assert (found > beyond).mean() < norm.sf(beyond) + 5 * np.sqrt(norm.sf(beyond) / 2000)
    assert count_z(mean + 8 * variance**0.5 + 8, mean, variance) > 6


@pytest.mark.parametrize("length", [4_096, 4_101, 65_537])
@pytest.mark.parametrize("places", [1, 2, 77, 1_000])
def test_a_relation_at_any_distance_is_found_there(length: int, places: int) -> None:
    series = torch.from_numpy(np.random.default_rng(length).standard_normal(length)).float()
    z, _, many = lags_z(series)
    assert abs(z) < limit_of_worst(many)
    echo = series.clone()
    echo[places:] += 0.5 * series[:-places]
    z, found, many = lags_z(echo)
    assert (found, z > limit_of_worst(many)) == (places, True)


def test_two_equal_halves_are_related_half_the_length_apart() -> None:
    half = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    z, places, _ = lags_z(torch.cat([half, half]))
    assert places == 4096
    assert z == pytest.approx(64, rel=0.05)  # sqrt(4096) of one for each pair


def marks(groups: int, places: int, chance: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((groups, places)) < chance


@pytest.mark.parametrize(("places", "furthest"), [(2, 1000), (13, 1000), (40, 7)])
def test_meetings_are_those_that_a_plain_loop_counts(
    places: int, furthest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, np.ndarray] = {}

    def kept(counts: np.ndarray, trials: np.ndarray, chance: float) -> np.ndarray:
        seen.update(counts=counts, trials=trials)
        return np.zeros(len(counts))

    monkeypatch.setattr(deviations, "_FURTHEST", furthest)
    monkeypatch.setattr(deviations, "_binomial_zs", kept)
    mask = marks(30, places, 0.4, places)
    together_z(*np.nonzero(mask), 30, places, 0.4)
    counts, trials = [], []
    for distance in range(1, min(furthest, places - 1) + 1):
        for odd in (0, 1):
            first = [i for i in range(places - distance) if i // distance % 2 == odd]
            assert not {i + distance for i in first} & set(first)  # no two pairs share a place
            counts.append(sum(int((mask[:, i] & mask[:, i + distance]).sum()) for i in first))
            trials.append(30 * len(first))
    half = range(places // 2)
    counts.append(sum(int((mask[:, i] & mask[:, i + places // 2]).sum()) for i in half))
    trials.append(30 * len(half))
    assert seen["counts"].tolist() == counts
    assert seen["trials"].tolist() == trials


@pytest.mark.parametrize("chance", [0.005, 0.1, 0.6])
def test_independent_marks_meet_as_often_as_chance_has_it(chance: float) -> None:
    for seed in range(20):
        z, _, many = together_z(*np.nonzero(marks(200, 150, chance, seed)), 200, 150, chance)
        assert abs(z) < limit_of_worst(many)


def test_marks_that_never_meet_are_found() -> None:
    mask = marks(400, 198, 0.1, 0)
    for place in range(9):  # 9 not with 0, 10 not with 1, up to 17 with 8, and so on
        mask[:, 9 + place :: 18] &= ~mask[:, place::18]
    z, distance, many = together_z(*np.nonzero(mask), 400, 198, 0.1)
    assert (distance, z < -limit_of_worst(many)) == (9, True)


def test_no_marks_at_all() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    assert together_z(nothing, nothing, 10, 10, 1e-6)[0] == 0
    assert together_z(nothing, nothing, 1000, 1000, 0.1)[0] < -20


def test_a_binomial_count_is_judged_on_both_sides() -> None:
    assert binomial_z(0, 1000, 0.05) < -7
    assert binomial_z(120, 1000, 0.05) > 7
    assert abs(binomial_z(50, 1000, 0.05)) < 0.5
