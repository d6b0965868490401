"""A run resolved once: everything it is built from, that `train` follows and `dpdm train --dry-run` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from dpdm_cli.data import ImageSet
from dpdm_cli.data.class_names import check_new_classes
from dpdm_cli.diffusion.unet import UNet, UNetConfig
from dpdm_cli.errors import UsageError
from dpdm_cli.privacy.accounting.claims import check_plan_file, claim, round_up
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.public_inputs import PublicInputs
from dpdm_cli.privacy.statement import NOT_PRIVATE
from dpdm_cli.results import Result
from dpdm_cli.stored import Json
from dpdm_cli.training.config.network import network_config, with_side
from dpdm_cli.training.config.planning import (
    check_batch_size,
    check_planned_size,
    plan_run,
    step_count,
)
from dpdm_cli.training.config.public_facts import known_size, public_facts
from dpdm_cli.training.config.public_start import PublicStart, check_start, chosen_start, with_start
from dpdm_cli.training.config.request import RunRequest
from dpdm_cli.training.config.settings import TrainSettings


@dataclass(frozen=True, kw_only=True, repr=False)
class RunSpec(Result):
    """What a run is, and nothing of what becomes of it. It holds no image.

    Attributes:
        request: what was asked for.
        settings, origins: those of the run, and by name where each is from; K is the plan's.
        dataset_size: N.
        public_inputs: who says that N and the images' shape and classes are public; None for a run that is not private.
        network: its shape.
        start: the model it starts from, if any.
        plan: what the run may release; None for a run that is not private.
    """

    request: RunRequest
    settings: TrainSettings
    origins: Mapping[str, str]
    dataset_size: int
    public_inputs: PublicInputs | None
    network: UNetConfig
    start: PublicStart | None
    plan: PrivacyPlan | None

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.plan.steps if self.plan else step_count(self.dataset_size, self.settings)

    @property
    def sample_rate(self) -> float:
        """q, the probability of each record to be in a batch."""
        return self.plan.sample_rate if self.plan else self.settings.batch_size / self.dataset_size

    def by_origin(self) -> dict[str, dict[str, Any]]:
        """Settings and their values by where they are from; those that nothing depends on are left out."""
        values, origins = self._settings()
        found: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            if value is not None:
                found.setdefault(origins[name], {})[name] = value
        return found

    def _settings(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Values and origins, with a plan file's in the place of what it replaces."""
        values, origins = asdict(self.settings), dict(self.origins)
        if self.plan is not None and self.request.plan_file is not None:
            planned = _as_settings(self.plan)
            values |= planned
            origins |= dict.fromkeys(planned, f"plan {self.request.plan_file}")
        return values, origins

    @property
    def summary(self) -> str:
        """One line."""
        plan = self.plan
        claimed = "NOT PRIVATE"
        if plan is not None:
            claimed = f"epsilon {claim(plan).epsilon_text} at delta {plan.delta:g}"
        what = f"{self.request.data} with {self.request.preset}"
        return f"{what}: {self.steps:,} steps, N = {self.dataset_size:,}; {claimed}"

    def to_dict(self) -> Json:
        """A JSON object: settings with their origins, the plan with its claim, the network with its size."""
        values, origins = self._settings()
        privacy: Json = {"claim": NOT_PRIVATE, "steps": self.steps}
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
    request = with_side(request, images)
    settings, origins = with_start(request, images, warm_start)
    if plan is not None:
        settings = replace(settings, unit=plan.record)
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
        if settings.unit != "image":
            raise UsageError(
                f"a run without privacy has no unit, found --unit {settings.unit}",
                "leave out --unit or --non-private",
            )
        known = known_size(request.data, settings)
        dataset_size = len(images.images) if known is None else known
        check_batch_size(dataset_size, settings)
    check_start(settings.init, plan)
    return RunSpec(
        request=request,
        settings=settings,
        origins=origins,
        dataset_size=dataset_size,
        public_inputs=public,
        network=network,
        start=start,
        plan=plan,
    )


def _as_settings(plan: PrivacyPlan) -> dict[str, Any]:
    """What a plan file says in the place of settings; None where it holds the outcome instead."""
    return {
        "epsilon": round_up(claim(plan).epsilon, 4),
        "delta": plan.delta,
        "unit": plan.record,
        "clip_norm": plan.clip_norm,
        "noise_multiplicity": plan.noise_multiplicity,
        "batch_size": plan.expected_batch_size,
        "epochs": None,
        "steps": plan.steps,
        "accountant": plan.accountant,
        "warm_start": plan.warm_start,
        "warm_share": None,
    }
