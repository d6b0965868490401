"""From settings and public facts to the plan a run will follow. Holds no image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpdm_cli.errors import PrivacyError, UsageError
from dpdm_cli.privacy.accounting.claims import calibrate, check_plan_file
from dpdm_cli.privacy.plan import PrivacyPlan, steps_for_epochs
from dpdm_cli.privacy.plan_file import load_plan
from dpdm_cli.training.config.settings import TrainSettings, merge

_IN_THE_PLAN = (
    "epsilon",
    "delta",
    "clip_norm",
    "noise_multiplicity",
    "batch_size",
    "epochs",
    "steps",
    "accountant",
    "warm_start",
    "warm_share",
)
"""Settings that a plan file replaces."""


def choose_settings(
    data: str,
    *,
    preset: str,
    settings_for: str | None = None,
    config: Path | None,
    plan: Path | None,
    flags: Mapping[str, Any],
) -> tuple[TrainSettings, dict[str, str]]:
    """The settings of a run and where each is from; see `merge`.

    Raises:
        UsageError: flags or the file give, beside a plan, what that already holds; or see `merge`.
    """
    settings, origins = merge(
        data, preset=preset, settings_for=settings_for, config=config, flags=flags
    )
    both = [name for name in asked_for(origins) if name in _IN_THE_PLAN]
    if plan is not None and both:
        given = [name if origins[name] == "flag" else f"{name} ({origins[name]})" for name in both]
        raise UsageError(
            f"{', '.join(given)} given beside --plan, which already says so",
            "leave them out, or calibrate another plan",
        )
    return settings, origins


def asked_for(origins: Mapping[str, str]) -> list[str]:
    """Names of the settings that are neither a default nor a preset's."""
    return [
        name
        for name, origin in origins.items()
        if origin != "default" and not origin.startswith("preset ")
    ]


def warm_start_of(settings: TrainSettings, plan: Path | None) -> str:
    """Of a private run: the plan file's, when there is one."""
    return settings.warm_start if plan is None else load_plan(plan).warm_start


def step_count(dataset_size: int, settings: TrainSettings) -> int:
    """Steps of a run, from `steps` or `epochs`."""
    if settings.steps is not None:
        return settings.steps
    if settings.epochs is None:
        raise UsageError("neither steps nor epochs are set", "give --steps or --epochs")
    return steps_for_epochs(dataset_size, settings.batch_size, settings.epochs)


def check_batch_size(dataset_size: int, settings: TrainSettings) -> None:
    """With privacy or without: no image can be in a batch with a probability above 1.

    Raises:
        UsageError: the batch size is more than N.
    """
    if settings.batch_size > dataset_size:
        raise UsageError(
            f"batch size {settings.batch_size} is more than the {dataset_size} images",
            f"choose --batch-size of at most {dataset_size}",
        )


def plan_run(dataset_size: int, settings: TrainSettings, file: Path | None = None) -> PrivacyPlan:
    """The plan in `file`; without one, the least noise that keeps the settings' target.

    Raises:
        UsageError: the settings ask for what cannot be.
        PrivacyError, DataError, DamagedFileError: see `read_plan`.
    """
    if file is not None:
        return read_plan(file, dataset_size)
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
    )


def read_plan(path: Path, dataset_size: int) -> PrivacyPlan:
    """A plan written by `dpdm calibrate --out`, unchanged; its claim is recomputed.

    Raises:
        PrivacyError: it was made for another data set size, or states less epsilon than it costs.
        DataError, DamagedFileError: no plan is there.
    """
    plan, _ = check_plan_file(path)
    if plan.dataset_size != dataset_size:
        raise PrivacyError(
            f"{path} is a plan for N = {plan.dataset_size:,}, the data set has N = {dataset_size:,}",
            "calibrate a plan for this data set, or state its public size with --dataset-size",
        )
    return plan
