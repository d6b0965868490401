"""What is said of a run before anything is spent: what it will take, and what to expect of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.data import ImageSet
from dpdm_cli.privacy.accounting.claims import claim
from dpdm_cli.reporter import Reporter
from dpdm_cli.stored import Json
from dpdm_cli.training.config.run_spec import RunSpec
from dpdm_cli.training.forecast.cost import Cost, measure
from dpdm_cli.training.forecast.outlook import Figures, Outlook, outlook


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """See the module's first line.

    Attributes:
        cost: minutes and memory; None when nobody asked.
        outlook: of its images; None without privacy, whose noise it is about.
    """

    cost: Cost | None
    outlook: Outlook | None

    @property
    def words(self) -> list[str]:
        """Sentences, one a line."""
        words = [f"takes {self.cost}"] if self.cost else []
        return words + list(self.outlook.words if self.outlook else ())

    def to_dict(self) -> Json:
        """For JSON."""
        return {
            "cost": self.cost and self.cost.to_dict(),
            "outlook": self.outlook and self.outlook.to_dict(),
        }


def foresee(
    spec: RunSpec,
    images: ImageSet,
    device: torch.device,
    reporter: Reporter,
    processes: Processes = ALONE,
    *,
    preview: int | None = None,
    is_loaded: bool = True,
    timed: bool = True,
) -> Forecast:
    """The forecast of a run, from its public figures and this machine.

    Args:
        spec: the run.
        images: where they are held matters, nothing else.
        device, processes: that are to make it; each of the processes calls this.
        reporter: gets the progress.
        preview: a grid is drawn after every so many steps.
        is_loaded: whether `images` are all that there are.
        timed: measure what it takes, in a few seconds.
    """
    cost = None
    if timed:
        network, held = spec.network, 0
        if images.storage is None and (device.type != "cpu" or not is_loaded):
            held = spec.dataset_size * network.image_channels * network.image_size**2
        previews = spec.steps // preview if preview else 0
        cost = measure(spec, device, processes, previews=previews, held=held, reporter=reporter)
    return Forecast(cost=cost, outlook=outlook(_figures(spec)) if spec.plan else None)


def _figures(spec: RunSpec) -> Figures:
    epsilon = spec.settings.epsilon
    if spec.plan is not None and spec.request.plan_file is not None:
        epsilon = round(claim(spec.plan).epsilon, 2)
    return Figures(
        dataset_size=spec.dataset_size,
        side=spec.network.image_size,
        channels=spec.network.image_channels,
        classes=spec.network.classes,
        epsilon=epsilon,
        steps=spec.steps,
    )
