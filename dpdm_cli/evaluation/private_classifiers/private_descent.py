"""Private training of a classifier: its cross-entropy, minimised by the package's private step.

DP-SGD with momentum (Abadi et al. 2016, arXiv 1607.00133). One plan builds sampler, clip, noise and divisor; the
optimiser and any average of the weights see only what the mechanism released, and so cost nothing. Nothing is chosen on
the private images: no validation, no best epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpdm_cli.compute.threads import workers_on
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.step import PrivateStep
from dpdm_cli.reporter import Progress

MOMENTUM = 0.9


def noise_walk(plan: PrivacyPlan) -> float:
    """How far the noise of all steps moves a weight, per unit of the learning rate.

    It moves each by lr sigma C / (divisor (1 - momentum)) a step, which adds up to a random walk of that times
    sqrt(steps).
    """
    one_step = plan.sigma * plan.clip_norm / (plan.divisor * (1.0 - MOMENTUM))
    return one_step * math.sqrt(plan.steps)


def descend(
    model: nn.Module,
    inputs: Callable[[Tensor], Tensor],
    labels: Tensor,
    ledger: Ledger,
    *,
    learning_rate: float,
    after_step: Callable[[int], None],
    progress: Progress,
) -> None:
    """Take all steps of the ledger's plan and leave the model as the last one left it.

    Args:
        model: logits [b, classes] from inputs; treats them independently.
        inputs: from indices of images [b] to what the model takes; that of one image must not depend on the others.
        labels: int64 [N], on the model's device.
        ledger: where each step is entered.
        after_step: called with each step's number, from 0.
        progress: advanced by one for each step.

    Raises:
        PrivacyError: the plan's steps are spent, or it begins with a warm start.
    """
    # On a CPU the gradients of a micro-batch should not outgrow the caches by much.
    micro_batch = 32 if labels.device.type == "cpu" else 512
    private_step = PrivateStep(
        model,
        ledger,
        records=len(labels),
        micro_batch=micro_batch,
        workers=workers_on(labels.device),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=MOMENTUM)
    model.train()

    def losses(part: Tensor) -> Tensor:
        return F.cross_entropy(model(inputs(part)), labels[part], reduction="none")

    for step in range(ledger.plan.steps):
        private_step(losses)
        optimizer.step()
        after_step(step)
        progress.advance()
