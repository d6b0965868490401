"""The paper's comparison: a classifier trained on the real images by the same private step as the
diffusion model. The running average of the weights after the last step is the result.
"""

from __future__ import annotations

import os

from torch import Tensor, nn

from dpdm_cli.diffusion.ema import EMA
from dpdm_cli.evaluation.classifiers.networks import Dropout, to_inputs
from dpdm_cli.evaluation.private_classifiers.private_descent import descend, noise_walk
from dpdm_cli.privacy.accounting.claims import calibrate
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan, steps_for_epochs
from dpdm_cli.reporter import Progress

EPOCHS = 20
FEWEST_STEPS = 300
BATCH_SIZE = 1024
CLIP_NORM = 1.0
_LARGEST_RATE = 0.5
_NOISE_WALK = 0.1
_AVERAGE_DECAY = 0.99


def plan_for(epsilon: float, delta: float, dataset_size: int) -> PrivacyPlan:
    """The plan of the baseline: settings that depend on public figures alone.

    Args:
        epsilon, delta: what one classifier may spend.
        dataset_size: N, the public number of real training images.

    Raises:
        PrivacyError, UsageError: figures for which there is no plan.
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

    Chosen so that the noise moves each weight by 0.1 in a random walk (at 0.3 the CNN no longer learns the bundled
    digits), and at most 0.5 / C.
    """
    return min(_LARGEST_RATE / plan.clip_norm, _NOISE_WALK / noise_walk(plan))


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
    # Masks go by an image's place in the batch: if they were known, removing one image would change the gradients
    # of those after it too.
    for module in model.modules():
        if isinstance(module, Dropout):
            module.draw_from(os.urandom)
    average = EMA(model, _AVERAGE_DECAY)
    descend(
        model,
        lambda part: to_inputs(images[part]),
        labels,
        Ledger(plan),
        learning_rate=learning_rate(plan),
        after_step=lambda step: average.update(model, step),
        progress=progress,
    )
    model.load_state_dict(average.averaged.state_dict())
