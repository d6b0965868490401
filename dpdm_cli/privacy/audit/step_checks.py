"""One record changes the sum of a step by at most C, and rounding adds nothing to that."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.privacy.audit.findings import (
    ALMOST_NO_NOISE,
    NOT_FINITE,
    SENSITIVITY_SLACK,
    Finding,
)
from dpdm_cli.privacy.audit.replay import Maker, release_of, step_on, steps_alone
from dpdm_cli.privacy.audit.tensor_records import TensorRecords
from dpdm_cli.privacy.gradients.per_example import Losses
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan


def check_sensitivity(
    make: Maker, losses: Losses, everyone: Tensor, suspects: Mapping[str, int], plan: PrivacyPlan
) -> list[Finding]:
    """The sum with and without each suspect differs by at most C, all else equal.

    One whose gradient is not finite counts as zero, so removing it may change nothing at all: this detects
    records that influence each other's gradients.
    """
    step = make(ALMOST_NO_NOISE, 1 + len(suspects))
    whole = release_of(step, losses, everyone)
    findings = []
    for what, record in suspects.items():
        limit = SENSITIVITY_SLACK + (0.0 if what in NOT_FINITE else 1.0)
        rest = release_of(step, losses, everyone[everyone != record])
        distance = float((whole - rest).norm()) / plan.clip_norm
        findings.append(
            Finding(
                f"sensitivity, {what} record",
                distance <= limit,  # False for NaN
                f"{distance:.6f} C between neighbours, at most {limit:g} C allowed",
            )
        )
    return findings


def check_tensors(
    make: Maker, losses: Losses, records: TensorRecords, plan: PrivacyPlan, many: int
) -> list[Finding]:
    """No tensor escapes the clip, and none is clipped separately: records of known gradients, far above C.

    One record for each tensor, all in one batch. Since they are orthogonal, the sum holds in each tensor what its
    record adds: that must be C in the direction of its gradient. It is more when the tensor is left out of the norm or
    of the clip, or counts twice in the sum; less when it counts twice in the norm, or when norms of other records go
    into the factor; elsewhere when two tensors change places. Tensors that are clipped one by one, or in groups, keep
    to C there: the record in all of them does not, since each group adds C.

    Args:
        losses: of the records, in the precision of the run.
        many: records in that batch, those of some tensors repeated; at least one for each.
    """
    count = len(records.names)
    everyone = torch.arange(max(many, count)) % count
    step = make(ALMOST_NO_NOISE, 2)
    total = release_of(step, losses, everyone) / plan.clip_norm
    directions = records.directions()
    parts = torch.split(total, [len(direction) for direction in directions])
    repeats = torch.bincount(everyone, minlength=count).tolist()
    distances = {
        name: (float(part.norm()) / times, float((part / times - direction).norm()))
        for name, part, times, direction in zip(
            records.names, parts, repeats, directions, strict=True
        )
    }
    # The worst first; NaN is the worst.
    worst = max(distances, key=lambda name: (math.isnan(distances[name][1]), distances[name][1]))
    distance, off = distances[worst]
    in_all = float(release_of(step, losses, everyone.new_tensor([count])).norm()) / plan.clip_norm
    return [
        Finding(
            "sensitivity, each tensor",
            off <= SENSITIVITY_SLACK,
            f"{distance:.6f} C for a loud record in {worst} alone, and {off:.6f} C from what it "
            f"should add: the furthest off of {count} tensors (limit {SENSITIVITY_SLACK:g} C)",
        ),
        Finding(
            "sensitivity, all tensors",
            abs(in_all - 1.0) <= SENSITIVITY_SLACK,
            f"{in_all:.6f} C for a loud record in all {count} tensors at once, 1 +- {SENSITIVITY_SLACK:g} allowed",
        ),
    ]


def check_precision(
    plan: PrivacyPlan, device: torch.device, processes: Processes = ALONE
) -> list[Finding]:
    """Equal gradients of norm C, which round alike, still add up to within the sensitivity."""
    count, size = 512, 10_000
    quiet = steps_alone(plan, ALMOST_NO_NOISE, 2)
    rows = torch.full((count, size), plan.clip_norm / math.sqrt(size), device=device)
    step, losses = step_on(rows, Ledger(quiet), count, processes)
    everyone = torch.arange(count)
    whole, rest = (release_of(step, losses, some) for some in (everyone, everyone[1:]))
    distance = float((whole - rest).norm()) / plan.clip_norm
    return [
        Finding(
            "precision of the sum",
            abs(distance - 1.0) <= SENSITIVITY_SLACK,
            f"{distance:.6f} C between sums of {count} and {count - 1} equal gradients, 1 +- "
            f"{SENSITIVITY_SLACK:g} allowed",
        )
    ]
