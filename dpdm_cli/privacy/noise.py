"""Noise: what a sum gets before anybody sees it. The Gaussian mechanism (Dwork and Roth 2014, appendix A)."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.privacy.entropy import Entropy, standard_normal

# Noise is added in float64 and the result rounded to this public grid (in units of sigma C), so that the low bits
# of the sum don't show through floating-point rounding (Mironov 2012). A mitigation, not a proof.
_GRID = 2.0**-20


def with_noise(
    total: Tensor,
    scale: float,
    entropy: Entropy = os.urandom,
    workers: int = 1,
    processes: Processes = ALONE,
) -> Tensor:
    """The sum of `total` [P] float64 over all processes plus N(0, scale^2) on every coordinate, on the public grid.

    Noise is added once: each process adds it to the coordinates whose sum it has, and gives out what is noisy alone.
    """
    part = processes.reduce_scatter(total)
    noise = torch.from_numpy(standard_normal(len(part), entropy, workers)).to(part.device)
    grid = scale * _GRID
    noisy = ((part + scale * noise) / grid).round() * grid
    return processes.all_gather(noisy).flatten()[: len(total)]
