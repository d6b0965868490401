"""What a training run would do: the merged settings with where each came from, the claim, the network."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dpdm_cli.compute.device import placed, resolve_device
from dpdm_cli.compute.threads import parallel_map, workers_on
from dpdm_cli.data import load_images
from dpdm_cli.data.decoding import Fit
from dpdm_cli.data.named import NAMED
from dpdm_cli.diffusion.denoiser import PARAMETERISATIONS, Denoiser
from dpdm_cli.diffusion.keyed_noise import KeyedNoise
from dpdm_cli.diffusion.loss import denoising_losses
from dpdm_cli.diffusion.unet import UNet
from dpdm_cli.errors import DpdmError
from dpdm_cli.privacy.accounting.claims import Claim, check_target, claim, round_up
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.plan_file import load_plan
from dpdm_cli.privacy.statement import NOT_PRIVATE
from dpdm_cli.privacy.step import parameter_count
from dpdm_cli.training.config.network import blank_images, network_config
from dpdm_cli.training.config.planning import (
    check_batch_size,
    choose_settings,
    plan_run,
    step_count,
    warm_start_of,
)
from dpdm_cli.training.config.public_facts import Stated, known_size, public_facts
from dpdm_cli.training.config.public_start import check_start, chosen_start, with_start
from dpdm_cli.training.config.settings import TrainSettings, default_preset, preset_settings
from dpdm_cli.training.warm_start import new_prior


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """See the module's first line.

    Attributes:
        settings: by name, the value and where it came from.
        privacy: the claim in words, the plan and the claim's figures.
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
    settings_for: str | None = None,
    config: Path | None = None,
    plan: Path | None = None,
    private: bool = True,
    init_from: Path | None = None,
    device: str = "auto",
    data_dir: Path | None = None,
    download: bool = True,
    classes: Sequence[str] | None = None,
    channels: int | None = None,
    public_metadata: bool = False,
    **flags: Any,
) -> Forecast:
    """What `train` with the same arguments would do; takes no step and writes nothing.

    A named set's files are not opened: its facts are public. Raises as `train` does.
    """
    preset = preset or default_preset(resolve_device(device).type)
    settings, origins = choose_settings(
        data,
        preset=preset,
        settings_for=settings_for,
        config=config,
        plan=plan,
        flags=flags,
    )
    if data in NAMED:
        Fit(channels=channels)
        images = blank_images(data, settings)
    else:
        images = load_images(
            data,
            data_dir=data_dir,
            download=download,
            image_size=settings.image_size,
            channels=channels,
            classes=classes,
        )
    settings, origins = with_start(
        settings,
        origins,
        preset,
        images,
        warm_start=warm_start_of(settings, plan) if private else "none",
        init_from=init_from,
    )
    network = network_config(images, settings)
    chosen_start(init_from, settings.init, network, data if private else None)
    values = asdict(settings)
    if private:
        stated = Stated(
            classes=None if classes is None else tuple(classes),
            channels=channels,
            public_metadata=public_metadata,
        )
        size = None if plan is None else load_plan(plan).dataset_size
        dataset_size, public = public_facts(data, images, settings, stated, size)
        the_plan = plan_run(dataset_size, settings, plan)
        check_start(settings.init, the_plan)
        claimed = claim(the_plan)
        if plan is not None:
            planned = _planned(the_plan, claimed)
            values |= planned
            origins |= dict.fromkeys(planned, f"plan {plan}")
        privacy = {
            "claim": claimed.sentence,
            **the_plan.to_dict(),
            **claimed.to_dict(),
            "public_inputs": public.to_dict(),
        }
    else:
        known = known_size(data, settings)
        dataset_size = len(images.images) if known is None else known
        check_batch_size(dataset_size, settings)
        check_start(settings.init, None)
        privacy = {"claim": NOT_PRIVATE, "steps": step_count(dataset_size, settings)}
    return Forecast(
        settings={name: {"value": value, "from": origins[name]} for name, value in values.items()},
        privacy=privacy,
        network={**asdict(network), "parameters": parameter_count(UNet(network))},
    )


def _planned(plan: PrivacyPlan, claimed: Claim) -> dict[str, Any]:
    """What a plan file says in the place of settings; None where it holds the outcome instead."""
    return {
        "epsilon": round_up(claimed.epsilon, 4),
        "delta": plan.delta,
        "clip_norm": plan.clip_norm,
        "noise_multiplicity": plan.noise_multiplicity,
        "batch_size": plan.expected_batch_size,
        "epochs": None,
        "steps": plan.steps,
        "accountant": plan.accountant,
        "warm_start": plan.warm_start,
        "warm_share": None,
    }


def preset_remark(
    data: str,
    device: str,
    *,
    settings_for: str | None = None,
    config: Path | None,
    plan: Path | None,
    private: bool,
    flags: Mapping[str, Any],
) -> str:
    """Which preset is taken when none is named, and what the other would cost on this machine.

    Empty for settings that `train` refuses: it says why, in all its processes.
    """
    try:
        torch_device = resolve_device(device)
        chosen = default_preset(torch_device.type)
        settings, _ = choose_settings(
            data, preset=chosen, settings_for=settings_for, config=config, plan=plan, flags=flags
        )
        _check_cheaply(data, settings, plan, private)
    except DpdmError:
        return ""
    if chosen != "small":
        return f"preset {chosen}"
    remark = "preset small (this is a CPU); --preset paper takes the paper's network and schedule"
    if data not in NAMED:
        return remark
    paper = preset_settings("paper", data, settings.epsilon, settings_for)
    steps = step_count(NAMED[data].train_size, paper)
    seconds = (
        steps
        * paper.batch_size
        * paper.noise_multiplicity
        * _seconds_a_row(data, paper, torch_device)
    )
    return f"{remark}, about {_roughly(seconds)} here"


def _check_cheaply(data: str, settings: TrainSettings, plan: Path | None, private: bool) -> None:
    """Raise what a run would before it computes or reads anything, but for what depends on images of one's own."""
    if private and plan is not None:
        load_plan(plan)
        return
    if private:
        check_target(settings.epsilon)
    dataset_size = known_size(data, settings)
    if dataset_size is not None:
        check_batch_size(dataset_size, settings)
        if private:
            PrivacyPlan(
                dataset_size=dataset_size,
                expected_batch_size=settings.batch_size,
                steps=step_count(dataset_size, settings),
                sigma=1.0,
                delta=settings.delta,
                clip_norm=settings.clip_norm,
                accountant=settings.accountant,
            )


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
        placed(UNet(config), device),
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
