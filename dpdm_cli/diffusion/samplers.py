"""From noise to images: DDIM, stochastic DDIM, and Euler and Heun with churn.

All share one signature, `sampler(denoise, x, grid, noise, churn)`, and integrate the probability-flow equation
dx/dt = (x - D(x; t)) / t from t_max to 0 with sigma(t) = t (EDM, arXiv 2206.00364, equation 3 and algorithm 2;
DPDM, arXiv 2210.09929, section 5). They know a denoising function and tensors, nothing else.

What they do to the variance of data whose denoiser is known, a mixture of ten Gaussians with the class means of
scikit-learn's digits and the covariance within classes: variance of 20,000 samples in units of the true one, along all
64 axes and along the narrower half of them, which hold the details (`tests/benchmarks/samplers.py`):

    sampler, steps         evaluations   all     narrow
    ddim, 50                        50   0.910   0.893
    stochastic-ddim, 50             50   1.055   1.095
    heun, 20                        39   1.066   1.103
    heun, 25                        49   1.040   1.063
    heun, 30 (default)              59   1.027   1.043
    heun, 50                        99   1.009   1.015
    ddim, 250                      250   0.981   0.979
    stochastic-ddim, 250           250   1.011   1.018

Begun at sigma 3 with the mixture's own Gaussian in the place of white noise at 80, down to 0.02 (what is taken for a
model with a Gaussian for each class):

    heun, 10                        19   1.032   1.057
    heun, 12 (default)              23   1.018   1.032
    heun, 18                        35   1.003   1.004
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dpdm_cli.errors import UsageError

Denoise = Callable[[Tensor, Tensor], Tensor]
"""D(x [R, C, H, W], sigma [R]) -> [R, C, H, W]"""


NoiseSource = Callable[[], Tensor]
"""The next independent standard normal draw for the images of a batch, [R, C, H, W]."""


@dataclass(frozen=True, kw_only=True)
class Churn:
    """Noise added back during sampling (EDM, algorithm 2).

    Attributes:
        amount: S_churn; 0 makes the sampler deterministic.
        lowest, highest: S_min and S_max, the noise levels between which noise is added.
        scale: S_noise, the standard deviation of what is added, in units of what was removed.

    Raises:
        UsageError: a value that is negative or not a number, or an empty range.
    """

    amount: float = 0.0
    lowest: float = 0.0
    highest: float = math.inf
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.amount < math.inf and 0 <= self.scale < math.inf):
            raise UsageError(
                f"churn's amount and scale must be finite and not negative, "
                f"found {self.amount} and {self.scale}"
            )
        if not 0 <= self.lowest < self.highest:
            raise UsageError(
                f"churn's noise levels must be 0 <= lowest < highest, "
                f"found {self.lowest} and {self.highest}"
            )

    def gamma(self, t: float, steps: int) -> float:
        """Relative increase of the noise level at t."""
        if not self.lowest <= t <= self.highest:
            return 0.0
        return min(self.amount / steps, math.sqrt(2) - 1)


def noise_grid(
    steps: int, *, t_min: float = 0.002, t_max: float = 80.0, rho: float = 7.0
) -> list[float]:
    """t_0 = t_max > ... > t_{steps-1} = t_min, then 0 (EDM, equation 5).

    Raises:
        UsageError: no step, or no such grid.
    """
    if steps < 1:
        raise UsageError(f"a sampler needs at least 1 step, found {steps}")
    if not (0 < t_min < t_max < math.inf and 0 < rho < math.inf):
        raise UsageError(
            f"the noise levels need 0 < t_min < t_max and rho > 0, found {t_min}, {t_max} and {rho}"
        )
    if steps == 1:
        return [t_max, 0.0]
    high, low = t_max ** (1 / rho), t_min ** (1 / rho)
    between = [(high + i / (steps - 1) * (low - high)) ** rho for i in range(1, steps - 1)]
    # The ends as given, not as rounded: churn's range may begin or stop exactly there.
    return [t_max, *between, t_min, 0.0]


def ddim(
    denoise: Denoise, x: Tensor, grid: list[float], noise: NoiseSource, churn: Churn
) -> Tensor:
    """Deterministic DDIM: Euler steps of the probability-flow equation. One evaluation a step."""
    for t, t_next in pairwise(grid):
        x = x + (t_next - t) * _slope(denoise, x, t)
    return x


def stochastic_ddim(
    denoise: Denoise, x: Tensor, grid: list[float], noise: NoiseSource, churn: Churn
) -> Tensor:
    """Euler-Maruyama steps of the reverse diffusion, then one denoising step without noise."""
    for t, t_next in pairwise(grid[:-1]):
        x = x + 2 * (t_next - t) * _slope(denoise, x, t)
        x = x + math.sqrt(2 * (t - t_next) * t) * noise()
    return denoise(x, _levels(x, grid[-2]))


def euler(
    denoise: Denoise, x: Tensor, grid: list[float], noise: NoiseSource, churn: Churn
) -> Tensor:
    """Euler steps with churn. One evaluation a step."""
    for t, t_next in pairwise(grid):
        x, t_hat = _raise_noise(x, t, len(grid) - 1, noise, churn)
        x = x + (t_next - t_hat) * _slope(denoise, x, t_hat)
    return x


def heun(
    denoise: Denoise, x: Tensor, grid: list[float], noise: NoiseSource, churn: Churn
) -> Tensor:
    """Heun's second-order steps with churn (EDM, algorithm 2). Two evaluations a step, one in the last."""
    for t, t_next in pairwise(grid):
        x, t_hat = _raise_noise(x, t, len(grid) - 1, noise, churn)
        slope = _slope(denoise, x, t_hat)
        x_next = x + (t_next - t_hat) * slope
        if t_next > 0:
            slope = (slope + _slope(denoise, x_next, t_next)) / 2
            x_next = x + (t_next - t_hat) * slope
        x = x_next
    return x


SAMPLERS = {"ddim": ddim, "stochastic-ddim": stochastic_ddim, "euler": euler, "heun": heun}


def guided(denoise: Denoise, denoise_unlabelled: Denoise, guidance: float) -> Denoise:
    """Classifier-free guidance: (1 + w) D(x, y) - w D(x) (Ho and Salimans, arXiv 2207.12598)."""
    if guidance == 0:
        return denoise

    def combined(x: Tensor, sigma: Tensor) -> Tensor:
        return (1 + guidance) * denoise(x, sigma) - guidance * denoise_unlabelled(x, sigma)

    return combined


def _levels(x: Tensor, t: float) -> Tensor:
    return torch.full(x.shape[:1], t, dtype=x.dtype, device=x.device)


def _slope(denoise: Denoise, x: Tensor, t: float) -> Tensor:
    return (x - denoise(x, _levels(x, t))) / t


def _raise_noise(
    x: Tensor, t: float, steps: int, noise: NoiseSource, churn: Churn
) -> tuple[Tensor, float]:
    """Move from noise level t up to t_hat = (1 + gamma) t."""
    gamma = churn.gamma(t, steps)
    if gamma == 0:
        return x, t
    t_hat = t * (1 + gamma)
    return x + math.sqrt(t_hat**2 - t**2) * churn.scale * noise(), t_hat
