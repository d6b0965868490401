"""From settings and public facts to the plan a run will follow. Holds no image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dpdm_cli.errors import PrivacyError, UsageError
from dpdm_cli.privacy.accounting.claims import calibrate
from dpdm_cli.privacy.plan import PrivacyPlan, steps_for_epochs
from dpdm_cli.training.config.settings import TrainSettings


def asked_for(origins: Mapping[str, str]) -> list[str]:
    """Names of the settings that are neither a default nor a preset's."""
    return [
        name
        for name, origin in origins.items()
        if origin != "default" and not origin.startswith("preset ")
    ]


def step_count(dataset_size: int, settings: TrainSettings) -> int:
    """Steps of a run, from `steps` or `epochs`."""
    if settings.steps is not None:
        return settings.steps
    if settings.epochs is None:
        raise UsageError("neither steps nor epochs are set", "give --steps or --epochs")
    return steps_for_epochs(dataset_size, settings.batch_size, settings.epochs)


def check_batch_size(dataset_size: int, settings: TrainSettings) -> None:
    """With privacy or without: no record can be in a batch with a probability above 1.

    Raises:
        UsageError: the batch size is more than N.
    """
    if settings.batch_size > dataset_size:
        raise UsageError(
            f"batch size {settings.batch_size} is more than the {dataset_size} {settings.unit}s",
            f"choose --batch-size of at most {dataset_size}",
        )


def plan_run(dataset_size: int, settings: TrainSettings) -> PrivacyPlan:
    """The plan of least noise that keeps the settings' target.

    Raises:
        UsageError, PrivacyError: the settings ask for what cannot be.
    """
    check_batch_size(dataset_size, settings)
    return calibrate(
        epsilon=settings.epsilon,
        delta=settings.delta,
        dataset_size=dataset_size,
        expected_batch_size=settings.batch_size,
        steps=step_count(dataset_size, settings),
        clip_norm=settings.clip_norm,
        noise_multiplicity=settings.noise_multiplicity,
        accountant=settings.accountant,
        warm_start=settings.warm_start,
        warm_share=settings.warm_share,
        unit=f"one {settings.unit}",
    )


def check_planned_size(path: Path, plan: PrivacyPlan, dataset_size: int) -> None:
    """Raise `PrivacyError` when the plan in a file was made for another number of images."""
    if plan.dataset_size != dataset_size:
        raise PrivacyError(
            f"{path} is a plan for N = {plan.dataset_size:,}, the data set has N = {dataset_size:,}",
            "calibrate a plan for this data set, or state its public size with --dataset-size",
        )
