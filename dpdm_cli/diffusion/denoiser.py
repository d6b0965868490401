"""Four parameterisations of one denoiser, D(x; sigma) = c_skip x + c_out F(c_in x, c_noise).

`Denoiser` wraps any network F. Each parameterisation gives the scalings, the loss weight lambda(sigma) and the
distribution of noise levels it is trained with (EDM, arXiv 2206.00364, table 1; v-prediction, Salimans and Ho,
arXiv 2202.00512; the choice by privacy budget, DPDM, arXiv 2210.09929, section 5). Images are in [-1, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from dpdm_cli.diffusion.gaussian_prior import GaussianPrior, over_pixels

_CLEAN_SCALE = math.sqrt(3)
"""Brings clean images to variance 1: over the standard deviation of uniform [-1, 1]."""


class Scalings(NamedTuple):
    """Preconditioning at given noise levels; each has the shape of sigma."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class Parameterisation(Protocol):
    """What turns a network into a denoiser, and how it is trained."""

    def scalings(self, sigma: Tensor) -> Scalings:
        """c_skip, c_out, c_in, c_noise at noise levels sigma > 0."""

    def weight(self, sigma: Tensor) -> Tensor:
        """lambda(sigma), the weight of the squared error."""

    def noise_levels(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """Training noise levels from independent U[0, 1) and N(0, 1) draws of the wanted shape."""


@dataclass(frozen=True)
class EDM:
    """Karras et al. 2022. ln sigma ~ N(p_mean, p_std^2); sigma_data is the public 1/sqrt(3) of uniform [-1, 1]."""

    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_data: float = math.sqrt(1 / 3)

    def scalings(self, sigma: Tensor) -> Scalings:
        sd = self.sigma_data
        total = sigma**2 + sd**2
        return Scalings(sd**2 / total, sigma * sd / total.sqrt(), total.rsqrt(), sigma.log() / 4)

    def weight(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2

    def noise_levels(self, uniform: Tensor, normal: Tensor) -> Tensor:
        return (self.p_mean + self.p_std * normal).exp()


@dataclass(frozen=True)
class VPrediction:
    """v-prediction. sigma = tan(pi t / 2), t uniform over log SNR in [log_snr_min, log_snr_max]."""

    log_snr_min: float = -9.0
    log_snr_max: float = 13.0

    def scalings(self, sigma: Tensor) -> Scalings:
        c_in = (1 + sigma**2).rsqrt()
        time = sigma.atan() * (2 / math.pi)  # = (2/pi) arccos(1/sqrt(1 + sigma^2))
        return Scalings(c_in**2, -sigma * c_in, c_in, time)

    def weight(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + 1) / sigma**2

    def noise_levels(self, uniform: Tensor, normal: Tensor) -> Tensor:
        first, last = (
            math.atan(math.exp(-snr / 2)) for snr in (self.log_snr_max, self.log_snr_min)
        )
        return (first + (last - first) * uniform).tan()


@dataclass(frozen=True)
class VariancePreserving:
    """DDPM's epsilon-prediction in continuous time (Song et al., arXiv 2011.13456)."""

    beta_min: float = 0.1
    beta_d: float = 19.9
    first_time: float = 1e-5
    levels: float = 1000.0

    def scalings(self, sigma: Tensor) -> Scalings:
        log_variance = (sigma**2 + 1).log()
        root = (self.beta_min**2 + 2 * self.beta_d * log_variance).sqrt()
        # (root - beta_min) / beta_d, without the cancellation at small noise
        time = 2 * log_variance / (root + self.beta_min)
        return Scalings(
            torch.ones_like(sigma), -sigma, (sigma**2 + 1).rsqrt(), (self.levels - 1) * time
        )

    def weight(self, sigma: Tensor) -> Tensor:
        return sigma**-2

    def noise_levels(self, uniform: Tensor, normal: Tensor) -> Tensor:
        time = self.first_time + (1 - self.first_time) * uniform
        return (self.beta_d * time**2 / 2 + self.beta_min * time).expm1().sqrt()


@dataclass(frozen=True)
class VarianceExploding:
    """Score matching with exploding noise (Song et al., arXiv 2011.13456)."""

    sigma_min: float = 0.02
    sigma_max: float = 100.0

    def scalings(self, sigma: Tensor) -> Scalings:
        one = torch.ones_like(sigma)
        return Scalings(one, sigma, one, (sigma / 2).log())

    def weight(self, sigma: Tensor) -> Tensor:
        return sigma**-2

    def noise_levels(self, uniform: Tensor, normal: Tensor) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** uniform


def with_noise_levels(
    parameterisation: Parameterisation, mean: float, std: float
) -> Parameterisation:
    """The same denoiser trained at other noise levels, ln sigma ~ N(mean, std^2); only EDM has this choice."""
    if isinstance(parameterisation, EDM):
        return replace(parameterisation, p_mean=mean, p_std=std)
    return parameterisation


PARAMETERISATIONS: dict[str, Parameterisation] = {
    "edm": EDM(),
    "v": VPrediction(),
    "vp": VariancePreserving(),
    "ve": VarianceExploding(),
}


class Denoiser(nn.Module):
    """D(x; sigma, y) over a network F(x, c_noise, y).

    Args:
        network: called as F(x [R, C', H, W], c_noise [R], labels [R] or None) -> [R, C, H, W].
        parameterisation: scalings, weight and noise levels.
        prior: replaces c_skip and c_out.
        sees_prior: whether the network is shown the prior's estimate beside the noisy image, as C' = 2 C channels.

    Raises:
        ValueError: the network is to see a prior, and none is given.
    """

    def __init__(
        self,
        network: nn.Module,
        parameterisation: Parameterisation,
        prior: GaussianPrior | None = None,
        *,
        sees_prior: bool = False,
    ) -> None:
        super().__init__()
        if sees_prior and prior is None:
            raise ValueError("the network is to be shown a prior, and there is none")
        self.network = network
        self.parameterisation = parameterisation
        self.prior = prior
        self.sees_prior = sees_prior

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Denoise.

        Args:
            x: noisy images [R, C, H, W].
            sigma: noise levels [R], > 0.
            labels: classes [R]; the null class is the number of classes. None for an unconditional network.

        Returns:
            Estimates of the clean images [R, C, H, W].
        """
        c_skip, c_out, c_in, c_noise = self.parameterisation.scalings(sigma)
        shown = over_pixels(c_in) * x
        if self.prior is None:
            output: Tensor = self.network(shown, c_noise, labels).to(x.dtype)
            return over_pixels(c_skip) * x + over_pixels(c_out) * output
        estimate = self.prior.posterior_mean(x, sigma, labels)
        if self.sees_prior:
            shown = torch.cat([shown, _CLEAN_SCALE * estimate], dim=1)
        output = self.network(shown, c_noise, labels).to(x.dtype)
        return estimate + self.prior.scaled(output, sigma, labels)

    def at_temperature(self, temperature: float) -> Denoiser:
        """The same network over a prior at another temperature; see `GaussianPrior.at_temperature`.

        Raises:
            ValueError: there is no prior.
        """
        if self.prior is None:
            raise ValueError("there is no prior that could have a temperature")
        return Denoiser(
            self.network,
            self.parameterisation,
            self.prior.at_temperature(temperature),
            sees_prior=self.sees_prior,
        )
