"""Noise is normal up to its tails, in every tensor: the variance alone would let uniform noise pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dpdm_cli.privacy.audit.deviations import binomial_z, cells_z, limit_of_worst
from dpdm_cli.privacy.audit.findings import Finding

_CELLS = 64  # of equal probability, for all numbers together
_FEWER = 4  # times fewer for one tensor
_ENOUGH = 50  # numbers in a cell, so that chi-square holds in its tail
_BEYOND = (3.0, 3.5, 4.0, 4.5)


def distribution_findings(
    noise: Tensor, names: Sequence[str], sizes: Sequence[int]
) -> list[Finding]:
    """Judge noise [T, P], in units of its standard deviation, whose columns are those of tensors of these sizes."""
    noise = noise.float()
    # As scipy's ndtr, in a fraction of the time; what is not a number counts as the least.
    places = (noise * math.sqrt(0.5)).erf_().add_(1.0).mul_(_CELLS / 2)
    cells = places.nan_to_num_(0.0).clamp_(max=_CELLS - 1).to(torch.uint8)
    deviations = {"all tensors": cells_z(torch.bincount(cells.flatten(), minlength=_CELLS))}
    for name, part in zip(names, torch.split(cells // _FEWER, list(sizes), 1), strict=True):
        if part.numel() >= _ENOUGH * _CELLS // _FEWER:
            counts = torch.bincount(part.flatten(), minlength=_CELLS // _FEWER)
            deviations[name] = cells_z(counts)
    worst = max(deviations, key=lambda name: abs(deviations[name]))
    limit = limit_of_worst(len(deviations))
    return [
        Finding(
            "noise, distribution",
            abs(deviations[worst]) <= limit,
            f"shares between quantiles of the normal distribution: at most {abs(deviations[worst]):.1f} standard "
            f"deviations off, in {worst} (limit {limit:.1f})",
        ),
        _tails(noise),
    ]


def _tails(noise: Tensor) -> Finding:
    from scipy.stats import norm

    far = noise[noise.abs() > min(_BEYOND)]
    found = []
    for beyond in _BEYOND:
        chance = float(norm.sf(beyond))
        expected = noise.numel() * chance
        for words, numbers in ((f"above {beyond:g}", far), (f"below -{beyond:g}", -far)):
            count = int(torch.count_nonzero(numbers > beyond))
            found.append((binomial_z(count, noise.numel(), chance), f"{count:,} {words}", expected))
    z, words, expected = max(found, key=lambda tail: abs(tail[0]))
    limit = limit_of_worst(len(found))
    return Finding(
        "noise, tails",
        abs(z) <= limit,
        f"{words} sigma C where {expected:,.1f} are expected: {z:+.1f} standard deviations off (limit {limit:.1f})",
    )
