"""What is said of the preset when none is named: which one it is, and what the other would cost on this machine."""

from __future__ import annotations

import time

import torch

from dpdm_cli.compute.device import to_device
from dpdm_cli.compute.threads import parallel_map, workers_on
from dpdm_cli.data.named import NAMED
from dpdm_cli.diffusion.denoiser import PARAMETERISATIONS, Denoiser
from dpdm_cli.diffusion.keyed_noise import KeyedNoise
from dpdm_cli.diffusion.loss import denoising_losses
from dpdm_cli.diffusion.unet import UNet
from dpdm_cli.training.config.network import blank_images, network_config
from dpdm_cli.training.config.planning import step_count
from dpdm_cli.training.config.run_spec import RunSpec
from dpdm_cli.training.config.settings import TrainSettings, preset_settings
from dpdm_cli.training.warm_start import new_prior


def preset_remark(spec: RunSpec, device: torch.device) -> str:
    """One sentence; for `small` on a named set it says how long `paper` would take, measured in a second or two."""
    asked = spec.request
    if asked.preset != "small":
        return f"preset {asked.preset}"
    remark = "preset small (this is a CPU); --preset paper takes the paper's network and schedule"
    if asked.data not in NAMED:
        return remark
    paper = preset_settings("paper", asked.data, spec.settings.epsilon, asked.settings_for)
    steps = step_count(NAMED[asked.data].train_size, paper)
    rows = steps * paper.batch_size * paper.noise_multiplicity
    return f"{remark}, about {_roughly(rows * _seconds_a_row(asked.data, paper, device))} here"


def _seconds_a_row(
    data: str, settings: TrainSettings, device: torch.device, rows: int = 16
) -> float:
    """Time of one noisy copy through forward and backward, measured on blank images by all workers together."""
    images = blank_images(data, settings)
    config = network_config(images, settings)
    prior = None
    if settings.warm_start != "none":
        shape = config.image_channels, config.image_size, config.image_size
        prior = new_prior(shape, config.classes).to(device)
    denoiser = Denoiser(
        to_device(UNet(config), device),
        PARAMETERISATIONS[settings.denoiser],
        prior,
        sees_prior=config.sees_prior,
    )
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


def _roughly(seconds: float) -> str:
    """One significant digit: what was measured was short, on a machine that may do other things too."""
    units = (("weeks", 604_800), ("days", 86_400), ("hours", 3_600), ("minutes", 60))
    # From one and a half, which is rounded to two.
    unit, length = next((u for u in units if seconds >= 1.5 * u[1]), ("seconds", 1))
    return f"{float(f'{seconds / length:.0e}'):,.0f} {unit}"
