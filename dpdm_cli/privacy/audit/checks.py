"""Replay: the real step on made-up records, with and without one of them; its noise; its sampler; its ledger.

What a statistical audit of a trained model cannot see (3 % too little noise, a clip that leaks through one layer, a
wrong sampler), the step itself shows exactly: with the same randomness for each record, two neighbouring batches may
differ by no more than C.

Every check runs the classes that training runs, on a ledger of its own. Limits are set so that correct code is blamed
less than once in 10,000 audits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from dpdm_cli.privacy.audit.findings import Finding
from dpdm_cli.privacy.audit.noise_checks import check_noise
from dpdm_cli.privacy.audit.replay import steps_alone
from dpdm_cli.privacy.audit.sampler_checks import check_sampler
from dpdm_cli.privacy.audit.step_checks import check_precision, check_sensitivity
from dpdm_cli.privacy.audit.warm_start_checks import check_warm_start
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.step import Losses, PrivateStep
from dpdm_cli.processes import ALONE, Processes


def check_all(
    network: nn.Module,
    losses: Losses,
    plan: PrivacyPlan,
    *,
    records: int,
    suspects: Mapping[str, int],
    micro_batch: int,
    workers: int = 1,
    processes: Processes = ALONE,
) -> list[Finding]:
    """All checks of the step that `network`, `losses` and `plan` make.

    Args:
        network: as for `PrivateStep`; its `.grad`s are cleared, its weights stay.
        losses: from indices of made-up records [b] to their losses [b], randomness fixed by record.
        plan: of the run; its steps may be fewer than the checks take, since they enter a ledger of their own.
        records: number of made-up records.
        suspects: what is special about a record, and which it is; each is removed in turn.
        micro_batch, workers, processes: as for `PrivateStep`.
    """

    def step(sigma: float, steps: int) -> PrivateStep:
        return PrivateStep(
            network,
            Ledger(steps_alone(plan, sigma, steps)),
            records=records,
            micro_batch=micro_batch,
            workers=workers,
            processes=processes,
        )

    everyone = torch.arange(records)
    findings = [*check_sensitivity(step, losses, everyone, suspects, plan)]
    findings += check_noise(step, losses, everyone, plan, processes)
    findings += check_precision(plan, next(network.parameters()).device, processes)
    findings += check_sampler(plan)
    if plan.warm_releases:
        findings += check_warm_start(plan, processes)
    for parameter in network.parameters():
        parameter.grad = None
    return findings
