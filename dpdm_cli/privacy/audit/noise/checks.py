"""What a step adds to the sum is the noise of the plan, fresh each time."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.errors import PrivacyError
from dpdm_cli.privacy.audit.deviations import chi_square_z
from dpdm_cli.privacy.audit.findings import ALMOST_NO_NOISE, PUBLIC_GRID, Z_LIMIT, Finding
from dpdm_cli.privacy.audit.noise.distribution import distribution_findings
from dpdm_cli.privacy.audit.noise.repetition import (
    check_seeds,
    lags_finding,
    repetition_findings,
)
from dpdm_cli.privacy.audit.replay import Maker, release_of
from dpdm_cli.privacy.gradients.per_example import Losses
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.step import PrivateStep

_NOISY_STEPS = 4  # on a batch, and as many on the empty batch
_BYTES_OF_A_NUMBER = 8
_OFF_GRID = 0.1  # of its width; float32 rounds numbers below 1 to 1/16 of it


def check_noise(
    make: Maker,
    losses: Losses,
    everyone: Tensor,
    plan: PrivacyPlan,
    processes: Processes = ALONE,
) -> list[Finding]:
    """What a release adds to the sum is N(0, (sigma C)^2), in every tensor, fresh each time, entered in the ledger.

    It is drawn from secret bytes, enough of them, and hides its sum's low bits behind the public grid.
    """
    total = release_of(make(ALMOST_NO_NOISE, 1), losses, everyone)
    steps = 2 * _NOISY_STEPS
    step = make(plan.sigma, steps)
    scale = plan.sigma * plan.clip_norm
    nobody = everyone[:0]
    secret = _CountedBytes(step)
    releases = [
        release_of(step, losses, batch) / scale
        for _ in range(_NOISY_STEPS)
        for batch in (everyone, nobody)
    ]
    noise = torch.stack(releases)  # [T, P]
    off_grid = _off_grid(noise[:2])
    noise[::2] -= total / scale
    residuals = list(noise)
    names = step.per_example.names
    sizes = [p.numel() for p in step.per_example.parameters]
    worst = max(
        (abs(chi_square_z(part)), name)
        for part, name in zip(torch.split(noise, sizes, 1), names, strict=True)
    )
    pooled = chi_square_z(noise)
    spread = float(noise.square().mean().sqrt())
    mean = float(noise.mean()) * math.sqrt(noise.numel())
    pairs = [
        *itertools.combinations(residuals, 2),
        *itertools.combinations(_parts(residuals[0], processes), 2),
        *((one[: len(one) // 2], one[-(len(one) // 2) :]) for one in residuals if len(one) > 1),
    ]
    repeats = max(abs(float((a * b).sum())) / math.sqrt(a.numel() or 1) for a, b in pairs)
    other = (release_of(make(plan.sigma, 1), losses, nobody)) / scale
    twice = abs(float((other * residuals[1]).sum())) / math.sqrt(other.numel())
    ledger = step.ledger
    refused = False
    try:
        step(losses)
    except PrivacyError:
        refused = True
    return [
        Finding(
            "noise, all tensors",
            abs(pooled) <= Z_LIMIT,
            f"{spread:.5f} sigma C, {pooled:+.1f} standard deviations from 1 (limit {Z_LIMIT})",
        ),
        Finding(
            "noise, each tensor",
            worst[0] <= Z_LIMIT,
            f"at most {worst[0]:.1f} standard deviations off, in {worst[1]} (limit {Z_LIMIT})",
        ),
        Finding(
            "noise, mean",
            abs(mean) <= Z_LIMIT,
            f"{mean:+.1f} standard deviations from 0 (limit {Z_LIMIT})",
        ),
        Finding(
            "noise, never twice",
            max(repeats, twice) <= Z_LIMIT,
            f"correlations of at most {max(repeats, twice):.1f} standard deviations between any two releases, "
            f"or in one between the parts of two processes or its halves (limit {Z_LIMIT})",
        ),
        *distribution_findings(noise, names, sizes),
        lags_finding(noise),
        *repetition_findings(noise[1::2]),
        check_seeds(plan, step.per_example.parameters[0].device),
        secret.finding(steps * math.ceil(noise.shape[1] / processes.size)),
        Finding(
            "noise, public grid",
            off_grid <= _OFF_GRID,
            f"releases lie within {off_grid:.3f} of its width, {_OFF_GRID:g} allowed for rounding to float32",
        ),
        Finding(
            "ledger",
            ledger.steps == steps and refused,
            f"{ledger.steps} lines for {steps} releases; one more was {'' if refused else 'not '}refused",
        ),
    ]


def _parts(noise: Tensor, processes: Processes) -> list[Tensor]:
    """The noise [P] of one release, by the process that added it, cut to one length."""
    parts = torch.split(noise, math.ceil(len(noise) / processes.size))
    return [part[: len(parts[-1])] for part in parts]


def _off_grid(releases: Tensor) -> float:
    """How far from the public grid releases [T, P], in units of sigma C, are at most, in units of its width."""
    places = releases[releases.abs() < 1] / PUBLIC_GRID
    return float((places - places.round()).abs().max()) if len(places) else 0.0


class _CountedBytes:
    """Counts the secret bytes that a step asks for its noise."""

    def __init__(self, step: PrivateStep) -> None:
        self._count = 0
        self._source = step._entropy
        step._entropy = self._counted

    def _counted(self, count: int) -> bytes:
        self._count += count
        return self._source(count)

    def finding(self, numbers: int) -> Finding:
        return Finding(
            "noise, secret bytes",
            self._count >= _BYTES_OF_A_NUMBER * numbers,
            f"{self._count:,} for {numbers:,} numbers, at least {_BYTES_OF_A_NUMBER} each needed",
        )
