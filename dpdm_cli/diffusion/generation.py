"""Draw images from a denoiser: which sampler, which labels, which seed.

Tensors in, uint8 tensors out. Knows no file and no data set.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dpdm_cli.compute.pixels import to_bytes
from dpdm_cli.diffusion.deformation import deform
from dpdm_cli.diffusion.denoiser import Denoiser
from dpdm_cli.diffusion.keyed_noise import KeyedNoise
from dpdm_cli.diffusion.samplers import SAMPLERS, Churn, Denoise, guided, noise_grid
from dpdm_cli.errors import UsageError
from dpdm_cli.stored import Json

CHURNING = ("euler", "heun")
"""The samplers that can add noise back."""

MOST_STEPS = 1_000_000
"""More are treated as damage where settings are read from a file."""

DEFAULT_STEPS = {"ddim": 50, "stochastic-ddim": 50, "euler": 50, "heun": 30}
"""About as many evaluations each; see `samplers` for their effect on the variance."""

STEPS_FROM_PRIOR = {"ddim": 25, "stochastic-ddim": 25, "euler": 25, "heun": 12}
"""Of a model with a Gaussian for each class, which starts closer to the image."""

_PRIOR = "prior"
PRIOR_T_MIN, PRIOR_T_MAX = 0.02, 3.0
"""Above, a class is its Gaussian; below, noise is about as large as the steps of 8 bits."""


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """How images are drawn.

    Attributes:
        sampler: ddim, stochastic-ddim, euler or heun.
        steps: noise levels visited; by default those of `DEFAULT_STEPS`.
        guidance: w of classifier-free guidance; 0 for none.
        churn: noise added back; used by euler and heun.
        t_min, t_max, rho: the grid of noise levels (EDM, equation 5).
        from_prior: begin at t_max with the Gaussian of the image's class, N(mu, S + t_max^2), instead of white
            noise, N(0, t_max^2); for a model that has one.
        temperature: T of p^(1/T), that Gaussian with T times the covariance, while all images are drawn; 1 draws the
            classes as they are, more varies them more. Classifiers learn more from it, and images are less faithful.
        deformation: largest amplitude of a small smooth deformation of each image after it is drawn, see `deform`;
            0 leaves images as they are drawn. Classifiers learn much more from it.

    Raises:
        UsageError: an unknown sampler, a value out of range, or churn for a sampler without it.
    """

    sampler: str = "heun"
    steps: int = None  # type: ignore[assignment]  # the sampler's own, below
    guidance: float = 0.0
    churn: Churn = field(default_factory=Churn)
    t_min: float = 0.002
    t_max: float = 80.0
    rho: float = 7.0
    from_prior: bool = False
    temperature: float = 1.0
    deformation: float = 0.0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UsageError(
                f"unknown sampler {self.sampler!r}", f"choose one of {', '.join(SAMPLERS)}"
            )
        if self.steps is None:
            steps = STEPS_FROM_PRIOR if self.from_prior else DEFAULT_STEPS
            object.__setattr__(self, "steps", steps[self.sampler])
        if self.steps > MOST_STEPS:
            raise UsageError(f"there are at most {MOST_STEPS:,} steps, found {self.steps:,}")
        if not 0 <= self.guidance < math.inf:
            raise UsageError(f"guidance must be finite and not negative, found {self.guidance}")
        if self.churn.amount and self.sampler not in CHURNING:
            raise UsageError(
                f"{self.sampler} takes no churn, found {self.churn.amount:g}",
                f"choose {' or '.join(CHURNING)}, or leave out the churn",
            )
        if not 0 < self.temperature < math.inf:
            raise UsageError(
                f"the temperature must be finite and above 0, found {self.temperature}"
            )
        if not 0 <= self.deformation < math.inf:
            raise UsageError(
                f"the deformation must be finite and not negative, found {self.deformation}"
            )
        self.grid()

    @classmethod
    def default(cls, *, has_prior: bool, sampler: str = "heun") -> SamplerSettings:
        """How images are drawn by default; a model with a Gaussian for each class starts from that."""
        if not has_prior:
            return cls(sampler=sampler)
        return cls(sampler=sampler, t_min=PRIOR_T_MIN, t_max=PRIOR_T_MAX, from_prior=True)

    def check_prior(self, *, has_prior: bool) -> None:
        """Raise `UsageError` where the classes' Gaussians are asked for and a model has none."""
        if not has_prior and (self.from_prior or self.temperature != 1):
            raise UsageError(
                f"the sampler ({self}) begins with the classes' Gaussians or varies them, and this model has none",
                "leave out the temperature, or train with --warm-start moments",
            )

    def grid(self) -> list[float]:
        """Noise levels, from t_max down to 0: steps + 1 of them."""
        return noise_grid(self.steps, t_min=self.t_min, t_max=self.t_max, rho=self.rho)

    @property
    def evaluations(self) -> int:
        """Evaluations of the network for one image."""
        once = 2 * self.steps - 1 if self.sampler == "heun" else self.steps
        return once * (2 if self.guidance else 1)

    def to_dict(self) -> Json:
        """For JSON; an unlimited churn range ends at null."""
        values: Json = {
            "sampler": self.sampler,
            "steps": self.steps,
            "guidance": self.guidance,
            "t_min": self.t_min,
            "t_max": self.t_max,
            "rho": self.rho,
        }
        if self.churn.amount:
            highest = self.churn.highest
            values["churn"] = {
                "amount": self.churn.amount,
                "lowest": self.churn.lowest,
                "highest": highest if math.isfinite(highest) else None,
                "scale": self.churn.scale,
            }
        if self.from_prior:
            values["start"] = _PRIOR
        if self.temperature != 1:
            values["temperature"] = self.temperature
        if self.deformation:
            values["deformation"] = self.deformation
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamplerSettings:
        """The settings that `to_dict` described.

        Raises:
            KeyError, AttributeError, TypeError, ValueError, UsageError: it does not describe settings.
        """
        settings = dict(values)
        if (churn := settings.pop("churn", None)) is not None:
            highest = math.inf if churn["highest"] is None else churn["highest"]
            settings["churn"] = Churn(**{**churn, "highest": highest})
        from_prior = settings.pop("start", None) == _PRIOR
        numbers = [*settings.values(), *(churn or {}).values()]
        if any(isinstance(number, bool) for number in numbers):
            raise ValueError("a flag in the place of a number")
        found = cls(**settings, from_prior=from_prior)
        if json.dumps(found.to_dict(), sort_keys=True) != json.dumps(values, sort_keys=True):
            raise ValueError("a setting that says nothing")
        return found

    def __str__(self) -> str:
        parts = [self.sampler, f"{self.steps} steps"]
        if self.churn.amount:
            parts.append(
                f"churn {self.churn.amount:g} between {self.churn.lowest:g} "
                f"and {self.churn.highest:g}"
            )
        if self.guidance:
            parts.append(f"guidance {self.guidance:g}")
        if self.from_prior:
            parts.append(f"from each class's Gaussian at noise {self.t_max:g}")
        if self.temperature != 1:
            parts.append(f"temperature {self.temperature:g}")
        if self.deformation:
            parts.append(f"deformed by up to {self.deformation:g}")
        return ", ".join(parts)


@torch.inference_mode()
def generate(
    denoiser: Denoiser,
    indices: Tensor,
    labels: Tensor | None,
    shape: tuple[int, int, int],
    settings: SamplerSettings,
    *,
    seed: int,
    null_label: int | None = None,
) -> Tensor:
    """Draw one image for each index; image i depends on the seed, i and its label alone.

    That holds up to rounding, which depends on the number of rows in the call; with the same number
    and place of its row, an image is the same to the bit.

    Args:
        denoiser: on the device of `indices`.
        indices: int64 [R].
        labels: classes [R], or None for an unconditional model.
        shape: (C, H, W) of one image.
        settings: see `SamplerSettings`.
        seed: any integer.
        null_label: the label of no class; guidance needs it.

    Returns:
        uint8 [R, C, H, W], rounded to the nearest level.

    Raises:
        UsageError: guidance without labels or without a null label; a start or a temperature that
            needs a prior, of a denoiser without one.
        DpdmError: the denoiser's output is not finite.
    """
    settings.check_prior(has_prior=denoiser.prior is not None)
    noise = KeyedNoise((seed,), indices)
    draw = partial(noise.normal, *shape)
    if settings.temperature != 1:
        denoiser = denoiser.at_temperature(settings.temperature)

    def with_labels(given: Tensor | None) -> Denoise:
        return lambda x, sigma: denoiser(x, sigma, given)

    denoise = with_labels(labels)
    if settings.guidance:
        if labels is None or null_label is None:
            raise UsageError(
                f"guidance is {settings.guidance:g}, but there are no classes to guide to",
                "leave it out for an unconditional model",
            )
        nothing = torch.full_like(labels, null_label)
        denoise = guided(denoise, with_labels(nothing), settings.guidance)
    grid = settings.grid()
    sampler = SAMPLERS[settings.sampler]
    start = draw()
    if settings.from_prior:
        assert denoiser.prior is not None
        start = denoiser.prior.noisy(start, start.new_full(start.shape[:1], grid[0]), labels)
    else:
        start = start * grid[0]
    x = sampler(denoise, start, grid, draw, settings.churn)
    if not x.isfinite().all():
        raise UsageError(
            f"the sampler ({settings}) produced numbers that are not finite",
            "take less guidance or churn, or more steps",
        )
    if settings.deformation:
        x = deform(x.clamp(-1, 1), settings.deformation, noise)
    return to_bytes(x)
