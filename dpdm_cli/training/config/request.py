"""What a run is asked to be, by flags, a configuration, a preset and a plan file, before any image is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

from dpdm_cli.choices import Preset
from dpdm_cli.data.reading import ReadingOptions, reading_of
from dpdm_cli.errors import UsageError
from dpdm_cli.privacy.plan_file import read_plan_file
from dpdm_cli.training.config.planning import asked_for
from dpdm_cli.training.config.public_facts import Stated
from dpdm_cli.training.config.settings import SettingOptions, TrainSettings, merge

IN_THE_PLAN = (
    "epsilon",
    "delta",
    "unit",
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


class TrainOptions(SettingOptions, ReadingOptions, total=False):
    """What a run takes by keyword beside its source: settings, and how files are read."""


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """See the module's first line.

    Attributes:
        data: a named set or a path.
        preset, settings_for: the preset, and the data set whose entries in it are taken; None for the data's own.
        settings, origins: the merged settings, and by name where each is from.
        stated: what is said of the images beside them.
        private: whether it is to be trained with privacy.
        plan_file: a plan that takes the place of some settings, `IN_THE_PLAN`.
        init_from: a model of public images to start from.
    """

    data: str
    preset: Preset
    settings: TrainSettings
    origins: Mapping[str, str]
    settings_for: str | None = None
    stated: Stated = field(default_factory=Stated)
    private: bool = True
    plan_file: Path | None = None
    init_from: Path | None = None


def request_run(
    data: str,
    preset: Preset,
    *,
    settings_for: str | None = None,
    config: Path | str | None = None,
    plan: Path | str | None = None,
    private: bool = True,
    init_from: Path | str | None = None,
    classes: Sequence[str] | None = None,
    channels: int | None = None,
    public_metadata: bool = False,
    skip_bad: bool = False,
    **options: Unpack[TrainOptions],
) -> RunRequest:
    """What `train` is asked for, merged; arguments as there.

    Raises:
        UsageError: `options` or the file give, beside a plan, what that already holds; or see `merge` and `Reading`.
        DataError, DamagedFileError, PrivacyError: see `read_plan_file`.
    """
    settings = {
        name: value for name, value in options.items() if name not in ReadingOptions.__annotations__
    }
    file = None if config is None else Path(config)
    budget = None
    if plan is not None and private:
        planned = read_plan_file(plan)
        budget = planned.epsilon if planned.target_epsilon is None else planned.target_epsilon
    merged, origins = merge(
        data, preset=preset, settings_for=settings_for, config=file, flags=settings, budget=budget
    )
    both = [name for name in asked_for(origins) if name in IN_THE_PLAN]
    if plan is not None and both:
        given = [name if origins[name] == "flag" else f"{name} ({origins[name]})" for name in both]
        raise UsageError(
            f"{', '.join(given)} given beside --plan, which already says so",
            "leave them out, or calibrate another plan",
        )
    return RunRequest(
        data=data,
        preset=preset,
        settings_for=settings_for,
        settings=merged,
        origins=origins,
        stated=Stated(
            classes=None if classes is None else tuple(classes),
            channels=channels,
            public_metadata=public_metadata,
            reading=reading_of(options, skip_bad),
        ),
        private=private,
        plan_file=None if plan is None else Path(plan),
        init_from=None if init_from is None else Path(init_from),
    )
