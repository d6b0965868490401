"""Data whose denoiser is known: ten Gaussians with the means of the digits and the covariance within them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpdm_cli.data import load_images
from dpdm_cli.diffusion.generation import SamplerSettings
from dpdm_cli.diffusion.samplers import SAMPLERS

_LEAST = 0.02  # standard deviation, of pixels that are the same in all digits


@dataclass
class Mixture:
    """K equally likely Gaussians in D dimensions with one diagonal covariance.

    Attributes:
        means: [K, D].
        variances: [D].
        calls: how often the denoiser was evaluated.
    """

    means: Tensor
    variances: Tensor
    calls: int = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[data | x], x [R, 1, h, w] with h w = D: each component's, weighed by how likely it is to be x's."""
        self.calls += 1
        noise = sigma[0] ** 2
        noisy = self.variances + noise
        rows = x.flatten(1)
        scaled = self.means / noisy
        likely = (rows @ scaled.T - (self.means * scaled).sum(1) / 2).softmax(1)
        return (rows * (self.variances / noisy) + likely @ (noise * scaled)).view(x.shape)

    @property
    def variance(self) -> Tensor:
        """Of the whole mixture along each axis, [D]."""
        return self.variances + self.means.var(0, correction=0)

    def noisy(self, white: Tensor, sigma: float) -> Tensor:
        """One Gaussian with the mixture's mean and covariance, and noise sigma."""
        centred = self.means - self.means.mean(0)
        covariance = self.variances.diag() + centred.T @ centred / len(centred)
        root = torch.linalg.cholesky(covariance + sigma**2 * torch.eye(len(covariance)))
        return (self.means.mean(0) + white.flatten(1) @ root.T).view(white.shape)

    def spread(self, settings: SamplerSettings, rows: int, seed: int = 0) -> tuple[float, float]:
        """Variance of that many samples in units of the mixture's: of all axes, and of the narrower half of them."""
        noise = _Noise((rows, 1, 8, 8), torch.Generator().manual_seed(seed))
        grid = settings.grid()
        sampler = SAMPLERS[settings.sampler]
        start = noise()
        start = self.noisy(start, grid[0]) if settings.from_prior else start * grid[0]
        found = sampler(self, start, grid, noise, settings.churn).flatten(1).var(0)
        narrow = self.variances <= self.variances.median()
        return (
            (found.sum() / self.variance.sum()).item(),
            (found[narrow].sum() / self.variance[narrow].sum()).item(),
        )


@dataclass
class _Noise:
    shape: tuple[int, ...]
    generator: torch.Generator

    def __call__(self) -> Tensor:
        """White in the sample too, not only on average: much less is left to chance."""
        drawn = torch.randn(self.shape, generator=self.generator, dtype=torch.float64).flatten(1)
        drawn = drawn - drawn.mean(0)
        root = torch.linalg.cholesky(drawn.T.cov())
        return torch.linalg.solve_triangular(root, drawn.T, upper=False).T.reshape(self.shape)


def digits() -> Mixture:
    """Of scikit-learn's digits, pixels in [-1, 1], in the axes of the covariance: white noise is white in any axes."""
    found = load_images("digits")
    pixels, labels = found.images.flatten(1).double() / 127.5 - 1, found.labels
    assert labels is not None
    means = torch.stack([pixels[labels == digit].mean(0) for digit in range(10)])
    values, axes = torch.linalg.eigh((pixels - means[labels]).T.cov())
    return Mixture(means @ axes, values.clamp(min=0) + _LEAST**2)
