from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpdm_cli.errors import DataError
from dpdm_cli.evaluation.distances import manifolds
from dpdm_cli.evaluation.distances.manifolds import ManifoldScores, compare_manifolds


def normal(n: int, d: int, seed: int, scale: float = 1.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64) * scale


def on_a_line(start: float, end: float, n: int = 100) -> Tensor:
    return torch.linspace(start, end, n, dtype=torch.float64)[:, None]


def in_a_loop(real: Tensor, synthetic: Tensor) -> ManifoldScores:
    """By the definitions, vector by vector."""

    def radius(z: Tensor, i: int, k: int) -> float:
        return sorted(float((z[i] - other).norm()) for j, other in enumerate(z) if j != i)[k - 1]

    n = len(real)
    distances = [[float((x - y).norm()) for y in synthetic] for x in real]
    narrow, wide = ([radius(real, i, k) for i in range(n)] for k in (3, 5))
    of_synthetic = [radius(synthetic, j, 3) for j in range(n)]
    inside = [[distances[i][j] <= wide[i] for j in range(n)] for i in range(n)]
    return ManifoldScores(
        precision=sum(any(distances[i][j] <= narrow[i] for i in range(n)) for j in range(n)) / n,
        recall=sum(any(distances[i][j] <= of_synthetic[j] for j in range(n)) for i in range(n)) / n,
        density=sum(map(sum, inside)) / (5 * n),
        coverage=sum(map(any, inside)) / n,
        n=n,
    )


@pytest.mark.parametrize(("n", "d"), [(6, 1), (40, 2), (40, 30)])
def test_scores_are_those_of_the_definitions(n: int, d: int) -> None:
    real, synthetic = normal(n, d, 0), normal(n, d, 1, scale=0.8) + 0.3
    assert compare_manifolds(real, synthetic) == in_a_loop(real, synthetic)


def test_distances_in_blocks_are_those_of_all_pairs_at_once() -> None:
    real, synthetic = normal(1201, 3, 2), normal(1201, 3, 3) + 0.5

    def pairs(x: Tensor, y: Tensor) -> Tensor:
        return (x[:, None] - y).norm(dim=2)

    narrow, wide = (pairs(real, real).sort(1).values[:, k, None] for k in (3, 5))
    of_synthetic = pairs(synthetic, synthetic).sort(1).values[:, 3]
    across = pairs(real, synthetic)
    found = compare_manifolds(real, synthetic)
    assert found.precision == pytest.approx(float((across <= narrow).any(0).double().mean()))
    assert found.recall == pytest.approx(float((across <= of_synthetic).any(1).double().mean()))
    assert found.density == pytest.approx(float((across <= wide).double().sum()) / (5 * 1201))
    assert found.coverage == pytest.approx(float((across <= wide).any(1).double().mean()))


def test_samples_that_collapse_on_a_part_are_precise_and_recall_little() -> None:
    # Real vectors at 0, 1, .. 99. Those up to 5 are in a synthetic ball, those up to 8 have one within their five.
    found = compare_manifolds(on_a_line(0, 99), on_a_line(0, 5))
    assert (found.precision, found.recall, found.coverage) == (1.0, 0.06, 0.09)


def test_samples_that_are_spread_too_far_recall_all_and_are_not_precise() -> None:
    # Synthetic vectors at 0, 1, .. 99, of which 45, .. 55 are among the real ones.
    found = compare_manifolds(on_a_line(45, 55), on_a_line(0, 99))
    assert (found.precision, found.recall) == (0.11, 1.0)


def test_precision_of_one_set_is_recall_of_the_other() -> None:
    real, synthetic = normal(300, 4, 4), normal(300, 4, 5, scale=0.5)
    there, back = compare_manifolds(real, synthetic), compare_manifolds(synthetic, real)
    assert (there.precision, there.recall) == (back.recall, back.precision)
    assert there.precision > there.recall


def test_equal_distributions_have_a_density_of_one() -> None:
    found = compare_manifolds(normal(3000, 2, 6), normal(3000, 2, 7))
    assert found.density == pytest.approx(1.0, abs=0.05)
    assert min(found.precision, found.recall, found.coverage) > 0.9


def test_a_set_lies_in_its_own_balls() -> None:
    x = normal(200, 5, 8)
    found = compare_manifolds(x, x.clone())
    assert (found.precision, found.recall, found.coverage) == (1.0, 1.0, 1.0)


def test_sets_far_apart_share_nothing() -> None:
    found = compare_manifolds(normal(50, 5, 9), normal(50, 5, 10) + 100)
    assert found == ManifoldScores(0.0, 0.0, 0.0, 0.0, 50)


@pytest.mark.parametrize(("dtype", "shift"), [(torch.float32, 2**10), (torch.float64, 2**26)])
def test_far_from_zero_the_scores_are_the_same(dtype: torch.dtype, shift: int) -> None:
    # Multiples of 2^-12, which the dtype holds exactly on either side; their squares it does not.
    real, synthetic = (normal(300, 6, seed).mul(4096).round() / 4096 for seed in (11, 12))
    far = compare_manifolds(real.to(dtype) + shift, synthetic.to(dtype) + shift)
    assert far == compare_manifolds(real, synthetic)


def test_copies_are_at_no_distance_in_spite_of_rounding() -> None:
    # Balls of no size: eight vectors are at one place.
    real = normal(75, 67, 13).repeat(8, 1)
    assert torch.cat(list(manifolds._squared_distances(real, real))).diagonal().count_nonzero() == 0
    assert compare_manifolds(real, real.flip(0)) == ManifoldScores(1.0, 1.0, 8 / 5, 1.0, 600)
    collapsed = compare_manifolds(real, real[7].repeat(600, 1))
    assert (collapsed.precision, collapsed.recall) == (1.0, 8 / 600)


def test_few_vectors_are_refused() -> None:
    with pytest.raises(DataError, match="at least 6 images on each side, found 5"):
        compare_manifolds(normal(5, 3, 14), normal(5, 3, 15))
