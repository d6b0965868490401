"""Preconditioning by a Gaussian for each class: EDM's scalings with a covariance in the place of sigma_data^2.

If clean images were N(mu, S), the best denoiser would be mu + S (S + sigma^2)^-1 (x - mu), and its error would have the
covariance sigma^2 S (S + sigma^2)^-1. EDM (arXiv 2206.00364, appendix B.6) takes mu = 0 and S = sigma_data^2 I for all
images alike; a network that outputs zero is then the best denoiser of those. Here mu and S belong to the class. So a
network starts from all that means and covariances can say, and learns the rest.
"""

from __future__ import annotations

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
        labels = classes + 1
        self.low = LowFrequencies(shape, coefficients)
        d = self.low.size
        k = min(d, directions)
        self.register_buffer("means", torch.zeros(labels, d))
        self.register_buffer("directions", torch.eye(d, k).repeat(labels, 1, 1))
        self.register_buffer("variances", torch.full((labels, k), 1 / 3))
        self.register_buffer("elsewhere", torch.tensor(1 / 3))

    def denoised(self, x: Tensor, output: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        """mu + S (S + sigma^2)^-1 (x - mu) + sigma S^1/2 (S + sigma^2)^-1/2 output.

        Args:
            x: noisy images [R, C, H, W].
            output: of the network, [R, C, H, W].
            sigma: noise levels [R], > 0.
            labels: [R]; None for no class.

        Returns:
            [R, C, H, W].
        """
        with torch.autocast(x.device.type, enabled=False):
            return self._denoised(x, output, sigma, labels)

    def _denoised(self, x: Tensor, output: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            labels = torch.full(x.shape[:1], len(self.means) - 1, device=x.device)
        squared = sigma.square()[:, None]

        def of_signal(variance: Tensor) -> Tensor:
            return variance / (variance + squared)

        def of_output(variance: Tensor) -> Tensor:
            return (of_signal(variance) * squared).sqrt()

        def beyond(scale: Callable[[Tensor], Tensor]) -> Tensor:
            """How much more is taken along the directions than elsewhere."""
            return scale(self.variances[labels]) - scale(self.elsewhere)

        means, directions = self.means[labels], self.directions[labels]
        deviation = self.low.coefficients(x) - means
        pair = torch.stack([deviation, self.low.coefficients(output)], dim=1)
        along_signal, along_output = (pair @ directions).unbind(1)  # [R, k] each
        along = beyond(of_signal) * along_signal + beyond(of_output) * along_output
        low = (directions @ along[..., None]).squeeze(-1)
        low = low + (1 - of_signal(self.elsewhere)) * means

        def over_pixels(scale: Tensor) -> Tensor:
            return scale.view(-1, 1, 1, 1)

        elsewhere = over_pixels(of_signal(self.elsewhere)) * x
        elsewhere = elsewhere + over_pixels(of_output(self.elsewhere)) * output
        return elsewhere + self.low.images(low)
