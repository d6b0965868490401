"""A network and images small enough for every test."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpdm_cli.data import ImageSet
from dpdm_cli.diffusion.denoiser import PARAMETERISATIONS, Denoiser
from dpdm_cli.diffusion.generation import SamplerSettings
from dpdm_cli.diffusion.keyed_noise import KeyedNoise
from dpdm_cli.diffusion.loss import denoising_losses
from dpdm_cli.diffusion.unet import UNet, UNetConfig
from dpdm_cli.privacy.gradients.per_example import Losses
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan

CLASSES = 3


class FewSteps(SamplerSettings):
    """In the place of `SamplerSettings` where a picture is drawn: soon done."""

    @classmethod
    def default(cls, *, has_prior: bool, sampler: str = "heun") -> SamplerSettings:
        return SamplerSettings(steps=2)


def config(**changes: Any) -> UNetConfig:
    """About 20,000 parameters, with every kind of layer: attention, both resamplings, embeddings."""
    shape: dict[str, Any] = {
        "image_size": 8,
        "image_channels": 1,
        "classes": CLASSES,
        "channels": 8,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention": (4,),
        "embedding": 16,
    }
    return UNetConfig(**{**shape, **changes})


def denoiser(kind: str = "edm", dtype: torch.dtype = torch.float32, **changes: Any) -> Denoiser:
    """A denoiser whose zero-initialised layers are moved off zero, so that every gradient shows."""
    generator = torch.Generator().manual_seed(7)
    network = UNet(config(**changes))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
            if parameter.ndim == 1:
                parameter.add_(0.5)
    return Denoiser(network.to(dtype), PARAMETERISATIONS[kind])


def images(count: int, side: int = 8, channels: int = 1, seed: int = 1) -> ImageSet:
    """Random images with labels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(
        0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8
    )
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    return ImageSet(name="random", images=pixels, labels=labels, classes=tuple("abc"))


def plan(**changes: Any) -> PrivacyPlan:
    """A plan for 64 records."""
    figures: dict[str, Any] = {
        "dataset_size": 64,
        "expected_batch_size": 16,
        "steps": 5,
        "sigma": 1.0,
        "delta": 1e-3,
        "clip_norm": 1.0,
        "noise_multiplicity": 2,
    }
    return PrivacyPlan(**{**figures, **changes})


def ledger(plan: PrivacyPlan, steps: int) -> Ledger:
    """A ledger with so many releases."""
    made = Ledger(plan)
    for _ in range(steps):
        made.record()
    return made


def losses_of(
    model: Denoiser,
    pixels: Tensor,
    labels: Tensor | None,
    copies: int,
    *,
    step: int = 0,
    dropout: float = 0.1,
) -> Losses:
    """Losses by record, as a training run computes them, from images in [-1, 1]."""

    def losses(indices: Tensor) -> Tensor:
        return denoising_losses(
            model,
            pixels[indices],
            None if labels is None else labels[indices],
            copies,
            KeyedNoise((0, step), indices),
            label_dropout=dropout,
            null_label=CLASSES,
        )

    return losses


def gradients_one_by_one(model: Denoiser, losses: Losses, records: Tensor) -> Tensor:
    """The plain loop: one backward pass an example, [B, P]."""
    parameters = list(model.network.parameters())
    rows = []
    for record in records.split(1):
        parts = torch.autograd.grad(losses(record).sum(), parameters, allow_unused=True)
        filled = [
            torch.zeros_like(p) if g is None else g for g, p in zip(parts, parameters, strict=True)
        ]
        rows.append(torch.cat([part.flatten() for part in filled]))
    return torch.stack(rows)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())
