"""Fréchet distance between two sets of features, each taken as a Gaussian.

Knows feature vectors only: no images, no networks, no files. All arithmetic is in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpdm_cli.errors import DataError


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean and covariance of a stream of feature vectors.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (1983), which keeps the sum
    of squares about the current mean: no difference of two large numbers, also where the mean is
    far from zero.

    Attributes:
        count: number of vectors seen, n.
        mean: [D] float64.
        scatter: [D, D] float64, the sum of (x - mean)(x - mean)^T.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, dimension: int) -> FeatureStatistics:
        """Statistics of zero vectors of `dimension` features."""
        zeros = torch.zeros(dimension, dtype=torch.float64)
        return cls(0, zeros, torch.zeros(dimension, dimension, dtype=torch.float64))

    @classmethod
    def of(cls, features: Tensor) -> FeatureStatistics:
        """Statistics of one batch [B, D] of any floating dtype and device; kept on the CPU.

        Raises:
            DataError: a feature is not finite.
        """
        wide = features.detach().cpu().double()
        if not wide.isfinite().all():
            raise DataError(
                "a feature is NaN or infinite, so no distance can be computed",
                "check the images, or use another extractor",
            )
        if len(wide) == 0:
            return cls.empty(wide.shape[1])
        mean = wide.mean(dim=0)
        centred = wide - mean
        return cls(len(wide), mean, centred.T @ centred)

    def __add__(self, other: FeatureStatistics) -> FeatureStatistics:
        """Of what both have seen. Raises `DataError` if the numbers of features differ."""
        require_same_dimension(self, other)
        count = max(self.count + other.count, 1)
        shift = other.mean - self.mean
        between = torch.outer(shift, shift) * (self.count * other.count / count)
        return FeatureStatistics(
            self.count + other.count,
            self.mean + shift * (other.count / count),
            self.scatter + other.scatter + between,
        )

    def covariance(self) -> Tensor:
        """Unbiased covariance [D, D] (divided by n - 1). Raises `DataError` below two vectors."""
        if self.count < 2:
            raise DataError(
                f"a covariance needs at least 2 images, found {self.count}", "give more images"
            )
        return self.scatter / (self.count - 1)


def require_same_dimension(first: FeatureStatistics, second: FeatureStatistics) -> None:
    """Raise `DataError` unless both hold the same number of features."""
    if first.mean.shape != second.mean.shape:
        raise DataError(
            f"{first.mean.numel()} features cannot be compared with {second.mean.numel()}",
            "use the same extractor and images of the same size and channels on both sides",
        )


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """Squared Fréchet distance of two Gaussians (Dowson, Landau 1982; FID: Heusel et al. 2017).

    d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1^1/2 S2 S1^1/2)^1/2.

    With S = A A^T from the eigenvalues of S, the last trace is the sum of the singular values of
    A1^T A2, which are the square roots of the eigenvalues of S1^1/2 S2 S1^1/2. Taken so, rounding
    enters at the level of the machine precision, not its square root, and covariances without full
    rank need no correction.

    Returns:
        A number >= 0.

    Raises:
        DataError: fewer than two vectors on a side, or different numbers of features.
    """
    require_same_dimension(first, second)
    covariances = first.covariance(), second.covariance()
    shift = (first.mean - second.mean).square().sum()
    cross = torch.linalg.svdvals(_factor(covariances[0]).T @ _factor(covariances[1])).sum()
    total = shift + covariances[0].trace() + covariances[1].trace() - 2.0 * cross
    return max(float(total), 0.0)


def _factor(covariance: Tensor) -> Tensor:
    """A [D, R] with A A^T = `covariance`, of its numerical rank R (at least 1)."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    # Below this an eigenvalue of the matrix cannot be told from rounding.
    threshold = values[-1] * len(values) * torch.finfo(values.dtype).eps
    keep = values > threshold
    keep[-1] = True
    factor: Tensor = vectors[:, keep] * values[keep].clamp(min=0.0).sqrt()
    return factor
