"""How much of one set of features the other covers: precision, recall, density and coverage.

Each set is represented by the union of balls around its vectors, each as large as the distance to the k-th nearest
vector of the same set. Knows feature vectors only. All arithmetic is in float64, a block of distances at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dpdm_cli.errors import DataError

K, DENSITY_K = 3, 5
"""Neighbours that a ball reaches to: of precision and recall, and of density and coverage."""

_BLOCK = 500


@dataclass(frozen=True)
class ManifoldScores:
    """Fractions of one set that lie in the balls of the other.

    Attributes:
        precision: of synthetic vectors, in a ball of a real one (Kynkäänniemi et al. 2019, arXiv 1904.06991, k = 3).
        recall: of real vectors, in a ball of a synthetic one.
        density: real balls that a synthetic vector lies in, on average, over k (Naeem et al. 2020, arXiv 2002.09797,
            k = 5); 1 in expectation where the distributions are equal, and not bounded by 1.
        coverage: of real vectors, with a synthetic one in their ball.
        n: vectors on each side.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    n: int


def compare_manifolds(real: Tensor, synthetic: Tensor) -> ManifoldScores:
    """Scores of features [N, D], as many on both sides, of any floating dtype.

    Distances are Euclidean. All four scores depend on N: compare those of the same number. Memory is 16 N D bytes, and
    some blocks of 4000 N bytes.

    Raises:
        DataError: fewer than six vectors.
    """
    if len(real) <= DENSITY_K:
        raise DataError(
            f"precision, recall, density and coverage need at least {DENSITY_K + 1} images on each side, "
            f"found {len(real)}",
            "give more images, or leave out --precision-recall",
        )
    # Squares of vectors far from zero would cancel the digits of their differences.
    centre = real.double().mean(0)
    real, synthetic = real.double() - centre, synthetic.double() - centre
    radius, wide_radius = _squared_radii(real)
    synthetic_radius, _ = _squared_radii(synthetic)
    precise, counted = 0, 0
    recalled, covered = torch.zeros(2, len(real), dtype=torch.bool)
    for block, squares in zip(
        torch.split(synthetic_radius, _BLOCK), _squared_distances(synthetic, real), strict=True
    ):
        in_wide = squares <= wide_radius
        precise += int((squares <= radius).any(1).sum())
        counted += int(in_wide.sum())
        recalled |= (squares <= block[:, None]).any(0)
        covered |= in_wide.any(0)
    n = len(real)
    return ManifoldScores(
        precision=precise / n,
        recall=int(recalled.sum()) / n,
        density=counted / (DENSITY_K * n),
        coverage=int(covered.sum()) / n,
        n=n,
    )


def _squared_radii(features: Tensor) -> tuple[Tensor, Tensor]:
    """[N] each: squared distances of every vector to its k-th nearest other one, for both k."""
    blocks = _squared_distances(features, features)
    # The nearest is the vector itself.
    nearest = torch.cat([block.topk(DENSITY_K + 1, largest=False).values for block in blocks])
    return nearest[:, K], nearest[:, DENSITY_K]


def _squared_distances(first: Tensor, second: Tensor) -> Iterator[Tensor]:
    """Blocks of rows of [M, N]; equal vectors are at distance zero."""
    squares = second.square().sum(1)
    for block in torch.split(first, _BLOCK):
        sizes = block.square().sum(1)[:, None] + squares
        distances = sizes - 2.0 * block @ second.T
        # Less cannot be distinguished from rounding, which must not make copies of a vector differ.
        yield distances.masked_fill_(distances < 1e-12 * sizes, 0.0)
