"""Checks of the real step on probe records: with and without one of them; its noise, its sampler, its ledger.

What a statistical audit of a trained model cannot see (3 % too little noise, a clip that leaks through one layer, a
wrong sampler), the step itself shows exactly: with the same randomness for each record, two neighbouring batches may
differ by no more than C.

Every check runs the classes that training runs, on a ledger of its own. Limits are set so that correct code fails
less than once in 10,000 audits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.privacy.audit.findings import Finding
from dpdm_cli.privacy.audit.noise.checks import check_noise
from dpdm_cli.privacy.audit.replay import in_precision, steps_alone
from dpdm_cli.privacy.audit.sampler_checks import check_sampler
from dpdm_cli.privacy.audit.step_checks import (
    check_precision,
    check_sensitivity,
    check_tensors,
)
from dpdm_cli.privacy.audit.tensor_records import TensorRecords
from dpdm_cli.privacy.audit.warm_start_checks import check_warm_start
from dpdm_cli.privacy.gradients.per_example import Losses
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.step import PrivateStep

_LOUDNESS = 1e3
"""Norm of a known record's gradient, in units of C."""

CHECKS = 6
"""Groups of them that `check_all` makes at the most."""

_FEW = 16
_MOST_BYTES = {"cpu": 512 << 20, "other": 64 << 30}


def check_all(
    network: nn.Module,
    losses: Losses,
    plan: PrivacyPlan,
    *,
    records: int,
    suspects: Mapping[str, int],
    micro_batch: int,
    workers: int = 1,
    bf16: bool = False,
    processes: Processes = ALONE,
    progress: Callable[[int], object] = lambda groups: None,
) -> list[Finding]:
    """All checks of the step that `network`, `losses` and `plan` make.

    Args:
        network: as for `PrivateStep`; its `.grad`s are cleared, its weights stay.
        losses: from indices of probe records [b] to their losses [b], randomness fixed by record.
        plan: of the run; its steps may be fewer than the checks take, since they enter a ledger of their own.
        records: number of probe records.
        suspects: what is special about a record, and which it is; each is removed in turn.
        micro_batch, workers, processes: as for `PrivateStep`.
        bf16: whether the run computes its losses with autocast to bfloat16.
        progress: called with the number of groups that are done since the last call; `CHECKS` in all.
    """
    device = next(network.parameters()).device
    known = TensorRecords(network, _LOUDNESS * plan.clip_norm)

    def step(sigma: float, steps: int) -> PrivateStep:
        return PrivateStep(
            network,
            Ledger(steps_alone(plan, sigma, steps)),
            records=records,
            micro_batch=micro_batch,
            workers=workers,
            processes=processes,
        )

    def computed(of_records: Losses) -> Losses:
        return in_precision(of_records, device, bf16)

    everyone = torch.arange(records)
    try:
        findings = check_sensitivity(step, computed(losses), everyone, suspects, plan)
        progress(1)
        many = _as_many_as_a_run(plan, known.size, device)
        findings += check_tensors(step, computed(known.losses), known, plan, many)
        progress(1)
        # What is added to a sum does not depend on how many are in it.
        findings += check_noise(step, computed(losses), everyone[-_FEW:], plan, processes)
        progress(1)
        findings += check_precision(plan, device, processes)
        progress(1)
        findings += check_sampler(plan)
        progress(1)
        if plan.warm_releases:
            findings += check_warm_start(plan, processes)
        progress(1)
    finally:
        for parameter in network.parameters():
            parameter.grad = None
    return findings


def _as_many_as_a_run(plan: PrivacyPlan, size: int, device: torch.device) -> int:
    """How many gradients [P] of known records to put into one batch: as many as a run has, if that takes about a second
    at most.
    """
    most = _MOST_BYTES["cpu" if device.type == "cpu" else "other"] // (4 * size)
    return min(round(plan.expected_batch_size), most)
