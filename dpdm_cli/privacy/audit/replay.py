"""The real step on a given batch: what it releases, as a sum."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.privacy.gradients.per_example import Losses
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.step import PrivateStep

Maker = Callable[[float, int], PrivateStep]
"""(sigma, steps): a step of the run at another noise, with a ledger for so many releases."""


def steps_alone(plan: PrivacyPlan, sigma: float, steps: int) -> PrivacyPlan:
    return dataclasses.replace(plan, sigma=sigma, steps=steps, warm_start="none", warm_sigma=None)


def in_precision(losses: Losses, device: torch.device, bf16: bool) -> Losses:
    """The same losses as a run computes them: with `bf16`, by autocast."""

    def computed(indices: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return losses(indices)

    return computed


def step_on(
    rows: Tensor, ledger: Ledger, micro_batch: int, processes: Processes = ALONE
) -> tuple[PrivateStep, Losses]:
    """The real step on records whose gradients are the given rows [n, P], to the bit; and their losses."""
    table: nn.Embedding = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
        rows.new_zeros(1, rows.shape[1]), freeze=False
    )

    def losses(indices: Tensor) -> Tensor:
        looked_up: Tensor = table(torch.zeros_like(indices))
        return (looked_up * rows[indices]).sum(1)

    step = PrivateStep(
        table, ledger, records=len(rows), micro_batch=micro_batch, processes=processes
    )
    return step, losses


class _Fixed:
    """A sampler whose next batch is given."""

    def __init__(self, batch: Tensor) -> None:
        self.batch = batch

    def draw(self, records: int) -> Tensor:
        return self.batch


def release_of(step: PrivateStep, losses: Losses, batch: Tensor) -> Tensor:
    """What one step on a given batch releases, as a sum: [P] float64, in the order of the parameters."""
    step._sampler = _Fixed(batch)  # type: ignore[assignment]
    step(losses)
    parts = [p.grad.flatten() for p in step.per_example.parameters if p.grad is not None]
    return torch.cat(parts).double().cpu() * step.ledger.plan.divisor
