"""A private linear classifier of wavelet scattering features (Tramèr and Boneh 2021, arXiv 2011.11660).

The features need no data, and few weights are left to learn by the private step. Without public data, its accuracy at
a small budget is hard to beat, and classifiers trained on synthetic images are measured against it.

Symbols: N images of C channels, H rows and W columns, as uint8 [N, C, H, W]; D = 81 C ceil(H / 4) ceil(W / 4) features.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from dpdm_cli.evaluation.classifiers.networks import require_two_classes
from dpdm_cli.evaluation.features.scattering import PATHS, WINDOW, Scattering
from dpdm_cli.evaluation.private_classifiers.private_descent import descend, noise_walk
from dpdm_cli.privacy.accounting.claims import calibrate
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.reporter import Reporter, SilentReporter

BATCH_SIZE = 4096
STEPS = 250
CLIP_NORM = 0.1
_LARGEST_MOVE = 2.4
_LOGIT_WALK = 5.0
_GROUPS = 27
_CHUNK = 50  # images whose spectra stay in a CPU's caches


class ScatteringClassifier(nn.Module):
    """One affine map, zero at first, of scattering features that are fixed.

    Features are group-normalised (arXiv 1803.08494) in 27 groups of neighbouring channels: mean 0 and variance 1 over
    channels and positions, less where they hardly vary. Those of an image depend on it alone, so they cost no privacy.

    Args:
        shape: (C, H, W) of an image, at least 8x8.
        classes: number of outputs, at least 2.
        device: where it is computed.

    Raises:
        DataError: smaller images, or fewer classes.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, device: torch.device) -> None:
        super().__init__()
        require_two_classes(classes)
        channels, height, width = shape
        self._transform = Scattering(height, width, device)
        features = channels * PATHS * math.ceil(height / WINDOW) * math.ceil(width / WINDOW)
        self.affine = nn.Linear(features, classes, device=device)
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def features(self, images: Tensor) -> Tensor:
        """Of images [B, C, H, W], uint8: [B, D] float32."""
        return F.group_norm(self._transform(images).flatten(1, 2), _GROUPS).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W], uint8."""
        logits: Tensor = self.affine(self.features(images))
        return logits


def plan_for(epsilon: float, delta: float, dataset_size: int) -> PrivacyPlan:
    """The plan of the baseline: settings that depend on public figures alone.

    Args:
        epsilon, delta: what the classifier may spend.
        dataset_size: N, the public number of real training images.

    Raises:
        PrivacyError, UsageError: figures for which there is no plan.
    """
    # A small set takes part in each step with a larger share of its images.
    return calibrate(
        epsilon=epsilon,
        delta=delta,
        dataset_size=dataset_size,
        expected_batch_size=min(BATCH_SIZE, max(256, dataset_size // 4), dataset_size),
        steps=STEPS,
        clip_norm=CLIP_NORM,
    )


def learning_rate(plan: PrivacyPlan, features: int) -> float:
    """Step size of SGD with momentum, from the plan and the number of features D.

    Features have a mean square of at most 1, so a walk of each weight by the noise is one of each logit that is at most
    sqrt(D) times as long. The step size is what makes that 5, at which held-out training images of MNIST, Fashion-MNIST
    and digits were classified about as well as at any other (examples/reproduce/RESULTS.md), and at most 2.4 / C, the
    largest that was tried.
    """
    walk = noise_walk(plan) * math.sqrt(features)
    return min(_LARGEST_MOVE / plan.clip_norm, _LOGIT_WALK / walk)


def train_privately(
    images: Tensor,
    labels: Tensor,
    classes: int,
    ledger: Ledger,
    reporter: Reporter | None = None,
) -> ScatteringClassifier:
    """Spend the ledger's plan on a classifier of private images.

    The average of the weights over the second half of the steps is the result. The weights start at zero, and no seed
    is involved.

    Args:
        images: uint8 [N, C, H, W], on the device it is trained on.
        labels: int64 [N], there too.
        classes: number of classes; public, whatever the labels are.
        ledger: where each step is entered. For a plan of one's own: C is 0.1 in `plan_for`.
        reporter: gets progress.

    Returns:
        logits [B, classes] from uint8 images [B, C, H, W].

    Raises:
        DataError: images below 8x8 pixels, or fewer than two classes.
        PrivacyError: the plan's steps are spent, or it begins with a warm start.
    """
    reporter = reporter or SilentReporter()
    channels, height, width = images.shape[1:]
    model = ScatteringClassifier((channels, height, width), classes, images.device)
    ledger.require_budget()
    # In half precision those of 60,000 images of 28x28 pixels take 476 MB.
    features = torch.empty(
        len(images), model.affine.in_features, dtype=torch.float16, device=images.device
    )
    with reporter.progress("scattering features", len(images), "images") as progress:
        for rows, indices in zip(
            torch.split(features, _CHUNK), torch.split(images, _CHUNK), strict=True
        ):
            rows.copy_(model.features(indices))
            progress.advance(len(indices))
    steps = ledger.plan.steps
    average = AveragedModel(model.affine)

    def after_step(step: int) -> None:
        if step >= steps // 2:
            average.update_parameters(model.affine)

    with reporter.progress("linear classifier by DP-SGD", steps, "steps") as progress:
        descend(
            model.affine,
            lambda part: features[part].float(),
            labels,
            ledger,
            learning_rate=learning_rate(ledger.plan, model.affine.in_features),
            after_step=after_step,
            progress=progress,
        )
    model.affine.load_state_dict(average.module.state_dict())
    return model.eval()
