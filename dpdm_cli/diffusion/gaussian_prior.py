"""Preconditioning by a Gaussian for each class: EDM's scalings with a covariance instead of sigma_data^2.

If clean images were N(mu, S), the best denoiser would be mu + S (S + sigma^2)^-1 (x - mu), and its error would have the
covariance sigma^2 S (S + sigma^2)^-1. EDM (arXiv 2206.00364, appendix B.6) takes mu = 0 and S = sigma_data^2 I for all
images alike; a network that outputs zero is then the best denoiser of those. Here mu and S belong to the class. So a
network starts from everything that means and covariances can express, and learns the rest.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dpdm_cli.diffusion.low_frequencies import LowFrequencies


class GaussianPrior(nn.Module):
    """N(mu_y, S_y) over images in [-1, 1], for each label y; not trained.

    S_y has variances of its own along k directions among the low frequencies, and one variance elsewhere.

    Args:
        shape: (C, H, W).
        classes: Y labels are these and, last, that for no class; 0 for an unconditional model.
        coefficients: d, of low frequency; see `LowFrequencies`.
        directions: k; at most d.

    Attributes:
        means: of the coefficients, [Y, d].
        directions: orthonormal, in columns, [Y, d, k].
        variances: along them, > 0, [Y, k].
        elsewhere: variance of everything else, > 0, [].
    """

    means: Tensor
    directions: Tensor
    variances: Tensor
    elsewhere: Tensor

    def __init__(
        self, shape: tuple[int, int, int], classes: int, coefficients: int, directions: int
    ) -> None:
        super().__init__()
        self.low = LowFrequencies(shape, coefficients)
        labels, d, k = self.forms(shape, classes, coefficients, directions)["directions"]
        self.register_buffer("means", torch.zeros(labels, d))
        self.register_buffer("directions", torch.eye(d, k).repeat(labels, 1, 1))
        self.register_buffer("variances", torch.full((labels, k), 1 / 3))
        self.register_buffer("elsewhere", torch.tensor(1 / 3))

    @staticmethod
    def forms(
        shape: tuple[int, int, int], classes: int, coefficients: int, directions: int
    ) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor in `state_dict`, of one with these arguments, that is not made for it."""
        labels, d = classes + 1, min(coefficients, math.prod(shape))
        k = min(d, directions)
        return {
            "means": (labels, d),
            "directions": (labels, d, k),
            "variances": (labels, k),
            "elsewhere": (),
        }

    def posterior_mean(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        """The best estimate of the clean images, mu + S (S + sigma^2)^-1 (x - mu).

        Args:
            x: noisy images [R, C, H, W].
            sigma: noise levels [R], > 0.
            labels: [R]; None for no class.

        Returns:
            [R, C, H, W].
        """
        squared = sigma.square()[:, None]

        def of_signal(variance: Tensor) -> Tensor:
            return variance / (variance + squared)

        with torch.autocast(x.device.type, enabled=False):
            labels = self._labels(x, labels)
            means = self.means[labels]
            low = self._beyond(of_signal, self.low.coefficients(x) - means, labels)
            elsewhere = of_signal(self.elsewhere)
            low = low + (1 - elsewhere) * means
            return over_pixels(elsewhere) * x + self.low.images(low)

    def scaled(self, output: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        """sigma S^1/2 (S + sigma^2)^-1/2 output: as large as that estimate's error if the output has variance 1.

        Args, returns: as above; `output` of the network, [R, C, H, W].
        """
        squared = sigma.square()[:, None]

        def of_output(variance: Tensor) -> Tensor:
            return (variance * squared / (variance + squared)).sqrt()

        with torch.autocast(output.device.type, enabled=False):
            low = self._beyond(
                of_output, self.low.coefficients(output), self._labels(output, labels)
            )
            return over_pixels(of_output(self.elsewhere)) * output + self.low.images(low)

    def noisy(self, white: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        """mu + (S + sigma^2)^1/2 white: noisy images at levels sigma, as far as means and covariances determine them.

        Args, returns: as above; `white` is standard normal, [R, C, H, W].
        """
        squared = sigma.square()[:, None]

        def of_noisy(variance: Tensor) -> Tensor:
            return (variance + squared).sqrt()

        labels = self._labels(white, labels)
        low = self.means[labels] + self._beyond(of_noisy, self.low.coefficients(white), labels)
        return over_pixels(of_noisy(self.elsewhere)) * white + self.low.images(low)

    def at_temperature(self, temperature: float) -> GaussianPrior:
        """The Gaussians of p^(1/T): variances T times as large along the directions, as they are elsewhere."""
        warmer = copy.deepcopy(self)
        warmer.variances *= temperature
        return warmer

    def _labels(self, x: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            return torch.full(x.shape[:1], len(self.means) - 1, device=x.device)
        return labels

    def _beyond(
        self, scale: Callable[[Tensor], Tensor], coefficients: Tensor, labels: Tensor
    ) -> Tensor:
        """How much more a function of S gives of coefficients [R, d] along its directions than elsewhere."""
        directions = self.directions[labels]
        along = (coefficients[:, None] @ directions).squeeze(1)
        more = (scale(self.variances[labels]) - scale(self.elsewhere)) * along
        return (directions @ more[..., None]).squeeze(-1)


def over_pixels(scale: Tensor) -> Tensor:
    """One number a row, [R], as it multiplies images: [R, 1, 1, 1]."""
    return scale.view(-1, 1, 1, 1)
