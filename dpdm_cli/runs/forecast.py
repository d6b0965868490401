"""What a training run would do: the merged settings with where each came from, the claim, the network, the time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dpdm_cli.data import load_images
from dpdm_cli.data.named import NAMED
from dpdm_cli.diffusion.denoiser import PARAMETERISATIONS, Denoiser
from dpdm_cli.diffusion.keyed_noise import KeyedNoise
from dpdm_cli.diffusion.loss import denoising_losses
from dpdm_cli.diffusion.unet import UNet
from dpdm_cli.parallel import parallel_map, workers_on
from dpdm_cli.privacy.accounting import claim
from dpdm_cli.privacy.statement import NOT_PRIVATE
from dpdm_cli.privacy.step import parameter_count
from dpdm_cli.runs.device import placed, resolve_device
from dpdm_cli.runs.network import blank_images, network_config
from dpdm_cli.runs.planning import choose_settings, plan_run, public_size, step_count
from dpdm_cli.runs.settings import TrainSettings, default_preset, preset_settings


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """See the module's first line.

    Attributes:
        settings: by name, the value and where it came from.
        privacy: the plan and its claim.
        network: shape and number of parameters.
    """

    settings: dict[str, dict[str, Any]]
    privacy: dict[str, Any]
    network: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def forecast(
    data: str,
    *,
    preset: str | None = None,
    config: Path | None = None,
    plan: Path | None = None,
    private: bool = True,
    device: str = "auto",
    data_dir: Path | None = None,
    download: bool = True,
    classes: Sequence[str] | None = None,
    channels: int | None = None,
    **flags: Any,
) -> Forecast:
    """What `train` with the same arguments would do; takes no step and writes nothing.

    A named set's files are not opened: its facts are public. Raises as `train` does.
    """
    settings, origins = choose_settings(
        data,
        preset=preset or default_preset(resolve_device(device).type),
        config=config,
        plan=plan,
        flags=flags,
    )
    if data in NAMED:
        images, counted = blank_images(data, settings), None
    else:
        images = load_images(
            data,
            data_dir=data_dir,
            download=download,
            image_size=settings.image_size,
            channels=channels,
            classes=classes,
        )
        counted = len(images.images)
    network = network_config(images, settings)
    dataset_size, source = public_size(data, settings, counted)
    if private:
        the_plan = plan_run(dataset_size, settings, plan)
        privacy = {**the_plan.to_dict(), **claim(the_plan).to_dict(), "dataset_size_source": source}
    else:
        privacy = {"claim": NOT_PRIVATE, "steps": step_count(dataset_size, settings)}
    return Forecast(
        settings={
            name: {"value": value, "from": origins[name]}
            for name, value in asdict(settings).items()
        },
        privacy=privacy,
        network={**asdict(network), "parameters": parameter_count(UNet(network))},
    )


def preset_remark(data: str, device: str, flags: Mapping[str, Any]) -> str:
    """Which preset is taken when none is named, and what the other would cost on this machine."""
    torch_device = resolve_device(device)
    chosen = default_preset(torch_device.type)
    if chosen != "small":
        return f"preset {chosen}"
    remark = "preset small (this is a CPU); --preset paper takes the paper's network and schedule"
    if data not in NAMED:
        return remark
    paper = preset_settings("paper", data, flags.get("epsilon") or TrainSettings.epsilon)
    steps = step_count(NAMED[data].train_size, paper)
    seconds = (
        steps
        * paper.batch_size
        * paper.noise_multiplicity
        * _seconds_a_row(data, paper, torch_device)
    )
    return f"{remark}, about {_duration(seconds)} here"


def _seconds_a_row(
    data: str, settings: TrainSettings, device: torch.device, rows: int = 16
) -> float:
    """Time of one noisy copy through forward and backward, measured on blank images by all workers together."""
    images = blank_images(data, settings)
    config = network_config(images, settings)
    denoiser = Denoiser(placed(UNet(config), device), PARAMETERISATIONS[settings.denoiser])
    keys = torch.arange(rows, device=device)
    x = torch.zeros(rows, config.image_channels, *images.size, device=device)
    labels = torch.zeros_like(keys) if config.classes else None

    def seconds(_: int) -> float:
        start = time.perf_counter()
        losses = denoising_losses(denoiser, x, labels, 1, KeyedNoise((0,), keys))
        torch.autograd.grad(losses.sum(), list(denoiser.parameters()))
        return time.perf_counter() - start

    workers = workers_on(device)
    times = list(parallel_map(seconds, range(2 * workers), workers))
    # The first pass of each also sets kernels up.
    return min(times) / rows / workers


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} seconds"
