"""A run resolved once: everything it is built from, that `train` follows and `dpdm train --dry-run` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dpdm_cli.choices import Preset
from dpdm_cli.data import ImageSet
from dpdm_cli.data.class_names import check_new_classes
from dpdm_cli.diffusion.unet import UNet, UNetConfig
from dpdm_cli.privacy.accounting.claims import check_plan_file, claim, round_up
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.public_inputs import PublicInputs
from dpdm_cli.privacy.statement import NOT_PRIVATE
from dpdm_cli.results import Result
from dpdm_cli.training.config.network import network_config
from dpdm_cli.training.config.planning import (
    check_batch_size,
    check_planned_size,
    plan_run,
    step_count,
)
from dpdm_cli.training.config.public_facts import Stated, known_size, public_facts
from dpdm_cli.training.config.public_start import PublicStart, check_start, chosen_start, with_start
from dpdm_cli.training.config.request import RunRequest
from dpdm_cli.training.config.settings import TrainSettings


@dataclass(frozen=True, kw_only=True, repr=False)
class RunSpec(Result):
    """What a run is, and nothing of what becomes of it. It holds no image.

    Attributes:
        data: what the user named.
        preset, settings_for: see `RunRequest`.
        settings, origins: those of the run, and by name where each is from; K is the plan's.
        stated: what was said of the images beside the settings.
        dataset_size: N.
        public_inputs: who says that N and the images' shape and classes are public; None for a run that is not private.
        network: its shape.
        start: the model it starts from, if any.
        plan: what the run may release; None for a run that is not private.
        plan_file: where the plan was read, if it was not made from the settings.
    """

    data: str
    preset: Preset
    settings_for: str | None
    settings: TrainSettings
    origins: Mapping[str, str]
    stated: Stated
    dataset_size: int
    public_inputs: PublicInputs | None
    network: UNetConfig
    start: PublicStart | None
    plan: PrivacyPlan | None
    plan_file: Path | None = None

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.plan.steps if self.plan else step_count(self.dataset_size, self.settings)

    @property
    def sample_rate(self) -> float:
        """q, the probability of each image to be in a batch."""
        return self.plan.sample_rate if self.plan else self.settings.batch_size / self.dataset_size

    @property
    def summary(self) -> str:
        """One line."""
        plan = self.plan
        claimed = "NOT PRIVATE"
        if plan is not None:
            claimed = f"epsilon {claim(plan).epsilon_text} at delta {plan.delta:g}"
        return f"{self.data} with {self.preset}: {self.steps:,} steps, N = {self.dataset_size:,}; {claimed}"

    def to_dict(self) -> dict[str, Any]:
        """A JSON object: settings with their origins, the plan with its claim, the network with its size."""
        values, origins = asdict(self.settings), dict(self.origins)
        if self.plan is not None and self.plan_file is not None:
            planned = _as_settings(self.plan)
            values |= planned
            origins |= dict.fromkeys(planned, f"plan {self.plan_file}")
        privacy: dict[str, Any] = {"claim": NOT_PRIVATE, "steps": self.steps}
        if self.plan is not None and self.public_inputs is not None:
            claimed = claim(self.plan)
            privacy = {
                "claim": claimed.sentence,
                **self.plan.to_dict(),
                **claimed.to_dict(),
                "public_inputs": self.public_inputs.to_dict(),
            }
        parameters = sum(p.numel() for p in UNet(self.network).parameters())
        return {
            "settings": {n: {"value": v, "from": origins[n]} for n, v in values.items()},
            "privacy": privacy,
            "network": {**asdict(self.network), "parameters": parameters},
        }


def resolve(request: RunRequest, images: ImageSet) -> RunSpec:
    """The run that was asked for, on these images; of a named set any of its shape will do (`blank_images`).

    Raises:
        UsageError, DataError: no network or plan can be had from this.
        PrivacyError: what is to be public is neither stated nor declared; or what would make the claim false.
        DamagedFileError: the plan or the public model is damaged.
    """
    check_new_classes(images.classes, request.data)
    file = request.plan_file if request.private else None
    plan = None if file is None else check_plan_file(file)[0]
    warm_start = "none"
    if request.private:
        warm_start = plan.warm_start if plan else request.settings.warm_start
    settings, origins = with_start(request, images, warm_start)
    network = network_config(images, settings)
    private_set = request.data if request.private else None
    start = chosen_start(request.init_from, settings.init, network, private_set)
    public = None
    if request.private:
        planned = plan.dataset_size if plan else None
        dataset_size, public = public_facts(request.data, images, settings, request.stated, planned)
        if plan is None:
            plan = plan_run(dataset_size, settings)
        elif file is not None:
            check_planned_size(file, plan, dataset_size)
        settings = replace(settings, noise_multiplicity=plan.noise_multiplicity)
    else:
        known = known_size(request.data, settings)
        dataset_size = len(images.images) if known is None else known
        check_batch_size(dataset_size, settings)
    check_start(settings.init, plan)
    return RunSpec(
        data=request.data,
        preset=request.preset,
        settings_for=request.settings_for,
        settings=settings,
        origins=origins,
        stated=request.stated,
        dataset_size=dataset_size,
        public_inputs=public,
        network=network,
        start=start,
        plan=plan,
        plan_file=file,
    )


def _as_settings(plan: PrivacyPlan) -> dict[str, Any]:
    """What a plan file says in the place of settings; None where it holds the outcome instead."""
    return {
        "epsilon": round_up(claim(plan).epsilon, 4),
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
