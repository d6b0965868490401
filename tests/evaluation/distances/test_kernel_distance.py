from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from dpdm_cli.errors import DataError
from dpdm_cli.evaluation.distances.kernel_distance import kernel_distance, squared_discrepancy


def normal(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64) + shift


def in_a_loop(x: Tensor, y: Tensor) -> float:
    """By the definition, pair by pair."""

    def k(a: Tensor, b: Tensor) -> float:
        return float((torch.dot(a, b) / len(a) + 1) ** 3)

    def within(z: Tensor) -> float:
        pairs = list(itertools.permutations(range(len(z)), 2))
        return sum(k(z[i], z[j]) for i, j in pairs) / len(pairs)

    across = sum(k(a, b) for a in x for b in y) / (len(x) * len(y))
    return within(x) + within(y) - 2 * across


def discrepancy_of_normals(shift: float) -> float:
    """In closed form, of N(0, 1) and N(shift, 1): (xy + 1)^3 compares the first three moments, weighted 3, 3 and 1."""
    first, second, third = shift, shift**2, shift**3 + 3 * shift
    return 3 * first**2 + 3 * second**2 + third**2


@pytest.mark.parametrize(("m", "n", "d"), [(5, 8, 3), (9, 4, 1), (2, 2, 20)])
def test_the_estimate_is_that_of_the_definition(m: int, n: int, d: int) -> None:
    x, y = normal(m, d, 0), normal(n, d, 1, shift=0.5)
    assert squared_discrepancy(x, y) == pytest.approx(in_a_loop(x, y), rel=1e-10)
    assert squared_discrepancy(y, x) == pytest.approx(squared_discrepancy(x, y), rel=1e-10)


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [3, 30])
def test_the_estimate_is_unbiased_however_few_the_vectors(shift: float, size: int) -> None:
    draws = 3000
    x, y = normal(draws * size, 1, 2), normal(draws * size, 1, 3, shift)
    estimates = torch.tensor(
        [squared_discrepancy(a, b) for a, b in zip(x.split(size), y.split(size), strict=True)]
    )
    error = float(estimates.std()) / draws**0.5
    assert abs(float(estimates.mean()) - discrepancy_of_normals(shift)) < 4 * error
    assert estimates.min() < 0


def test_equal_distributions_are_at_zero_and_others_farther_the_more_they_differ() -> None:
    x = normal(800, 2, 4)
    same = kernel_distance(x, normal(800, 2, 5))
    assert abs(same.mean) < same.std
    apart = [kernel_distance(x, normal(800, 2, 5, shift)).mean for shift in (0.2, 0.5, 1.0)]
    assert same.mean < apart[0] < apart[1] < apart[2]
    assert apart[0] > 0


def test_a_set_is_below_zero_from_itself() -> None:
    x = normal(500, 4, 6)
    assert squared_discrepancy(x, x) < 0


@pytest.mark.parametrize(
    ("first", "second", "size"),
    [(2, 9, 2), (3, 3, 2), (9, 40, 4), (1500, 4000, 750), (2100, 2000, 1000), (2050, 2051, 1000)],
)
def test_subsets_hold_a_thousand_or_half_of_the_smaller_set(
    first: int, second: int, size: int
) -> None:
    found = kernel_distance(normal(first, 1, 7), normal(second, 1, 8))
    assert (found.subset_size, found.subsets) == (size, 100)
    assert (found.first, found.second) == (first, second)


def test_the_subsets_follow_the_seed_and_nothing_else() -> None:
    x, y = normal(50, 3, 9), normal(60, 3, 10)
    before = torch.get_rng_state()
    first, again, other = (kernel_distance(x, y, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_features_of_single_precision_are_compared_in_double() -> None:
    # Between kernels of nearly 1, as of features far below 1, single precision would see nothing.
    x, y = 1e-3 * normal(400, 8, 11).float(), 1e-3 * normal(400, 8, 12, shift=0.5).float()
    found = kernel_distance(x, y)
    assert found == kernel_distance(x.double(), y.double())
    assert found.mean == pytest.approx(3 * 0.25e-6, rel=0.2)


def test_one_vector_is_refused() -> None:
    with pytest.raises(DataError, match="at least 2 images on each side, found 1"):
        kernel_distance(normal(1, 3, 13), normal(9, 3, 14))
