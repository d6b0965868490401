"""The paper's comparison: a classifier trained on the real images by the same private step as the
diffusion model.

DP-SGD (Abadi et al. 2016, arXiv 1607.00133). One plan builds sampler, clip, noise and divisor; the
optimiser and the running average of the weights see only what the mechanism released, and so cost
nothing. Nothing is chosen by looking at the private images: no validation, no best epoch; the model
after the last step is the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpdm_cli.evaluation.classifiers import to_inputs
from dpdm_cli.privacy.accounting import calibrate
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.mechanism import GaussianMechanism
from dpdm_cli.privacy.per_example import PerExampleGradients
from dpdm_cli.privacy.plan import PrivacyPlan, steps_for_epochs
from dpdm_cli.privacy.poisson import PoissonSampler
from dpdm_cli.runs.reporter import Progress

EPOCHS = 20
FEWEST_STEPS = 300
BATCH_SIZE = 1024
CLIP_NORM = 1.0
MOMENTUM = 0.9
_LARGEST_RATE = 0.5
_NOISE_WALK = 0.1
_AVERAGE_DECAY = 0.99


def plan_for(epsilon: float, delta: float, dataset_size: int) -> PrivacyPlan:
    """The plan of the baseline: settings that depend on public figures alone.

    Args:
        epsilon, delta: what one classifier may spend.
        dataset_size: N, the public number of real training images.

    Raises:
        PrivacyError, UsageError: figures that no plan can be made for.
    """
    # A small set takes part in each step with a larger share of its images, and more often.
    batch_size = min(BATCH_SIZE, max(64, dataset_size // 6), dataset_size)
    return calibrate(
        epsilon=epsilon,
        delta=delta,
        dataset_size=dataset_size,
        expected_batch_size=batch_size,
        steps=max(FEWEST_STEPS, steps_for_epochs(dataset_size, batch_size, EPOCHS)),
        clip_norm=CLIP_NORM,
    )


def learning_rate(plan: PrivacyPlan) -> float:
    """Step size of SGD with momentum, from the plan alone.

    The noise moves each weight by lr sigma C / (divisor (1 - momentum)) a step, which adds up to a
    random walk of that times sqrt(steps). The step size is what makes the walk 0.1 (at 0.3 the CNN
    no longer learns the bundled digits), and at most 0.5 / C.
    """
    one_step = plan.sigma * plan.clip_norm / (plan.divisor * (1.0 - MOMENTUM))
    return min(_LARGEST_RATE / plan.clip_norm, _NOISE_WALK / (one_step * math.sqrt(plan.steps)))


def train_privately(
    model: nn.Module, images: Tensor, labels: Tensor, plan: PrivacyPlan, progress: Progress
) -> None:
    """Run all steps of the plan and leave the running average of the weights in the model.

    Args:
        model: logits [B, classes] from float images in [-1, 1]; treats images independently.
        images: the real training images, uint8 [N, C, H, W], on the model's device.
        labels: int64 [N].
        progress: advanced by one for each step.
    """
    gradients = PerExampleGradients(model)
    sampler = PoissonSampler(plan)
    mechanism = GaussianMechanism(Ledger(plan), gradients.size, images.device)
    optimizer = torch.optim.SGD(gradients.parameters, lr=learning_rate(plan), momentum=MOMENTUM)
    averages = [parameter.detach().clone() for parameter in gradients.parameters]
    model.train()

    # On a CPU the gradients of a micro-batch should not outgrow the caches by much.
    microbatch = 32 if images.device.type == "cpu" else 512

    def losses(part: Tensor) -> Tensor:
        return F.cross_entropy(model(to_inputs(images[part])), labels[part], reduction="none")

    def of_batch(batch: Tensor) -> Iterator[Tensor]:
        if len(batch):
            for part in torch.split(batch, microbatch):
                yield gradients(partial(losses, part), len(part))

    for step in range(1, plan.steps + 1):
        batch = sampler.draw(len(images)).to(images.device)
        gradients.assign(mechanism.privatize(of_batch(batch)))
        optimizer.step()
        decay = min(_AVERAGE_DECAY, step / (step + 10))
        for average, parameter in zip(averages, gradients.parameters, strict=True):
            average.lerp_(parameter.detach(), 1.0 - decay)
        progress.advance()
    with torch.no_grad():
        for average, parameter in zip(averages, gradients.parameters, strict=True):
            parameter.copy_(average)
