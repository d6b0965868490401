"""Kernel distance between two sets of features: of the distributions themselves, without a Gaussian approximation.

Its estimate is unbiased, so sets of different sizes, and small ones, compare; the Fréchet distance is too large by an
amount that depends on them. Knows feature vectors only. All arithmetic is in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpdm_cli.errors import DataError

SUBSETS = 100
LARGEST_SUBSET = 1000


@dataclass(frozen=True)
class KernelDistance:
    """Squared maximum mean discrepancy, estimated on pairs of random subsets.

    Attributes:
        mean: over the pairs; 0 in expectation where the distributions are equal, so it can be negative.
        std: standard deviation over the pairs, not the error of the mean: pairs share vectors.
        subsets: pairs.
        subset_size: vectors in each subset.
        first, second: vectors that the subsets were drawn from.
    """

    mean: float
    std: float
    subsets: int
    subset_size: int
    first: int
    second: int


def kernel_distance(first: Tensor, second: Tensor, *, seed: int = 0) -> KernelDistance:
    """Kernel (Inception) distance of Binkowski et al. 2018 (arXiv 1801.01401), on 100 pairs of subsets of 1000.

    Where a set has fewer than 2000 vectors, a subset is half of the smaller set: the mean stays unbiased, and the
    deviation is that of subsets which differ.

    Args:
        first, second: features [M, D] and [N, D] of any floating dtype.
        seed: of the subsets, each drawn without replacement.

    Raises:
        DataError: fewer than two vectors on a side.
    """
    fewest = min(len(first), len(second))
    if fewest < 2:
        raise DataError(
            f"a kernel distance needs at least 2 images on each side, found {fewest}",
            "give more images",
        )
    size = min(LARGEST_SUBSET, max(2, fewest // 2))
    generator = torch.Generator().manual_seed(seed)

    def subset(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=generator)[:size]].double()

    estimates = torch.tensor(
        [squared_discrepancy(subset(first), subset(second)) for _ in range(SUBSETS)],
        dtype=torch.float64,
    )
    return KernelDistance(
        mean=float(estimates.mean()),
        std=float(estimates.std()),
        subsets=SUBSETS,
        subset_size=size,
        first=len(first),
        second=len(second),
    )


def squared_discrepancy(first: Tensor, second: Tensor) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, lemma 6) of [M, D] and [N, D].

    Of the kernel (x.y / D + 1)^3. Of features far below 1 its linear part is nearly all, three times the squared
    distance of the means over D.
    """
    within = sum(_mean_of_pairs(_kernel(features, features)) for features in (first, second))
    return float(within - 2.0 * _kernel(first, second).mean())


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.T / first.shape[1] + 1.0) ** 3


def _mean_of_pairs(kernel: Tensor) -> Tensor:
    """Over pairs of two different vectors."""
    n = len(kernel)
    return (kernel.sum() - kernel.trace()) / (n * (n - 1))
