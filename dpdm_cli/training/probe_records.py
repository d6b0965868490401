"""Records that hold no data, for checks of the training step: images of noise, some records special."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dpdm_cli.choices import Unit
from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.diffusion.denoiser import Denoiser
from dpdm_cli.diffusion.keyed_noise import KeyedNoise
from dpdm_cli.diffusion.loss import denoising_losses
from dpdm_cli.diffusion.unet import UNetConfig
from dpdm_cli.errors import PrivacyError
from dpdm_cli.privacy.audit.checks import check_all
from dpdm_cli.privacy.audit.findings import NOT_FINITE
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.training.records import People

_BRIEF_RECORDS = 8
_BRIEF = ("fifty-image", "huge", "not a number")
_MANY = {"one-image": 1, "two-image": 2, "fifty-image": 50}
"""Images of the suspects among persons."""
_LOUD = 1e3
"""By what the losses of suspects among persons are multiplied, so that their gradients are clipped."""

_DISTANCE = 0.1
"""Standard deviation of what is added to the weights for a check."""


class ProbeRecords:
    """Records of noise and what is special about some of them, for the losses of a denoiser.

    Args:
        denoiser: on its device.
        config: of its network.
        copies: K.
        count: records, at least 8.
        unit: what a record is. Among persons the suspects have one, two and fifty images, of several classes, and loud
            gradients; the others have up to three images.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        config: UNetConfig,
        copies: int,
        count: int,
        unit: Unit = "image",
    ) -> None:
        device = next(denoiser.network.parameters()).device
        self._denoiser, self._copies, self._null = denoiser, copies, config.classes
        self.count, self.unit = count, unit
        special = ("only one of its class", "repeated", "huge", *NOT_FINITE)
        ordinary = _MANY if unit == "person" else {"ordinary": 1}
        self.suspects = {what: place for place, what in enumerate(ordinary)}
        self.suspects |= {what: count - 1 - i for i, what in enumerate(special)}
        repeated, rare = self.suspects["repeated"], self.suspects["only one of its class"]
        images_of = torch.ones(count, dtype=torch.int64, device=device)
        if unit == "person":
            images_of += torch.arange(count, device=device) % 3
            images_of[: len(ordinary)] = torch.tensor([*ordinary.values()])
            images_of[[repeated, rare]] = 1
        self._people = People(torch.arange(count, device=device).repeat_interleave(images_of))
        first = images_of.cumsum(0) - images_of
        total = int(images_of.sum())
        noise = KeyedNoise((0,), torch.arange(total, device=device))
        shape = config.image_channels, config.image_size, config.image_size
        self._images = noise.uniform(*shape) * 2 - 1
        self._labels = None
        self._images[first[repeated]] = self._images[0]
        if config.classes:
            self._labels = torch.arange(total, device=device) % max(1, config.classes - 1)
            self._labels[first[repeated]] = self._labels[0]
            self._labels[first[rare]] = config.classes - 1
        self._weights = torch.ones(count, device=device)
        for what, weight in (("huge", 1e8), ("infinite", math.inf), ("not a number", math.nan)):
            self._weights[self.suspects[what]] = weight
        if unit == "person":
            self._weights[: len(ordinary)] = _LOUD

    def losses(self, indices: Tensor) -> Tensor:
        """Losses of some records [b], their randomness fixed by record."""
        noise = KeyedNoise((1,), indices)
        rows = indices
        if self.unit == "person":
            rows = self._people.choose(indices, self._copies, noise)
        values = denoising_losses(
            self._denoiser,
            self._images[rows],
            None if self._labels is None else self._labels[rows],
            self._copies,
            noise,
            label_dropout=0.1,
            null_label=self._null,
        )
        return values * self._weights[indices]


@contextmanager
def off_zero(network: nn.Module) -> Iterator[None]:
    """For the duration, add a small perturbation to a network's weights; then restore them, bit for bit.

    At initialisation branches end in zeros, which hide the gradients of the layers before them. What is added is
    public, and the same each time.
    """
    parameters = list(network.parameters())
    own = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            for parameter in parameters:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(_DISTANCE * noise.to(parameter))
        yield
    finally:
        with torch.no_grad():
            for parameter, weights in zip(parameters, own, strict=True):
                parameter.copy_(weights)


def check_before_training(
    denoiser: Denoiser,
    config: UNetConfig,
    plan: PrivacyPlan,
    *,
    micro_batch: int,
    workers: int,
    bf16: bool = False,
    processes: Processes = ALONE,
    progress: Callable[[int], object] = lambda groups: None,
) -> None:
    """The checks in brief, on a run's own network and plan, before it touches an image. Its weights stay as they are.

    Args:
        micro_batch, workers, bf16, processes: of the run, as for `check_all`.
        progress: as there.

    Raises:
        PrivacyError: the step does not do what the plan says.
    """
    probes = ProbeRecords(denoiser, config, plan.noise_multiplicity, _BRIEF_RECORDS, plan.record)
    with off_zero(denoiser.network):
        findings = check_all(
            denoiser.network,
            probes.losses,
            plan,
            records=probes.count,
            suspects={what: probes.suspects[what] for what in _BRIEF if what in probes.suspects},
            micro_batch=micro_batch,
            workers=workers,
            bf16=bf16,
            processes=processes,
            progress=progress,
        )
    wrong = [finding for finding in findings if not finding.passed]
    if wrong:
        raise PrivacyError(
            "the training step does not keep its privacy plan on this machine: "
            + "; ".join(f"{finding.name}: {finding.detail}" for finding in wrong),
            "nothing was trained; `dpdm audit` shows all checks. Please report this",
        )
