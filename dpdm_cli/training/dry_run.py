"""`dpdm train --dry-run`: the run that a call of `train` would be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Unpack

from dpdm_cli.choices import Preset
from dpdm_cli.compute.device import resolve_device, set_precision
from dpdm_cli.data import load_images
from dpdm_cli.data.decoding import Fit
from dpdm_cli.data.named import NAMED
from dpdm_cli.keywords import keywords_shown
from dpdm_cli.reporter import Reporter, SilentReporter
from dpdm_cli.stored import Json
from dpdm_cli.training.config.network import blank_images
from dpdm_cli.training.config.request import TrainOptions, request_run
from dpdm_cli.training.config.run_spec import RunSpec, resolve
from dpdm_cli.training.config.settings import default_preset
from dpdm_cli.training.forecast.forecast import Forecast, foresee
from dpdm_cli.training.forecast.found import found_in
from dpdm_cli.training.preview import check_preview


@dataclass(frozen=True, kw_only=True, repr=False)
class DryRun(RunSpec):
    """A run that was not made.

    Attributes:
        forecast: what it would take, and what to expect of it.
    """

    forecast: Forecast

    def to_dict(self) -> Json:
        """A JSON object: the run's, and the forecast."""
        return {**super().to_dict(), "forecast": self.forecast.to_dict()}


@keywords_shown
def dry_run(
    data: str,
    *,
    preset: Preset | None = None,
    settings_for: str | None = None,
    config: Path | str | None = None,
    plan: Path | str | None = None,
    private: bool = True,
    init_from: Path | str | None = None,
    device: str = "auto",
    data_dir: Path | None = None,
    download: bool = True,
    classes: Sequence[str] | None = None,
    channels: int | None = None,
    public_metadata: bool = False,
    skip_bad: bool = False,
    preview: int | None = None,
    reporter: Reporter | None = None,
    **options: Unpack[TrainOptions],
) -> DryRun:
    """What `train` with the same arguments would do; takes no step on an image, spends nothing and writes nothing.

    A named set's files are not opened: its facts are public. With a `reporter` that is not quiet, it gets what was
    found in your own images, for your eyes, and the run is timed on grey rows. Raises as `train` does.
    """
    check_preview(preview)
    reporter = reporter or SilentReporter()
    where = resolve_device(device)
    request = request_run(
        data,
        preset or default_preset(where.type),
        settings_for=settings_for,
        config=config,
        plan=plan,
        private=private,
        init_from=init_from,
        classes=classes,
        channels=channels,
        public_metadata=public_metadata,
        skip_bad=skip_bad,
        **options,
    )
    if data in NAMED:
        Fit(channels=channels)  # of images that are not looked at
        images = blank_images(data, request.settings)
    else:
        images = load_images(
            data,
            data_dir=data_dir,
            download=download,
            image_size=request.settings.image_size,
            channels=channels,
            classes=classes,
            reading=request.stated.reading,
            reporter=reporter,
        )
        reporter.note(found_in(images))
    spec = resolve(request, images)
    set_precision(spec.settings.precision, where)
    forecast = foresee(
        spec,
        images,
        where,
        reporter,
        preview=preview,
        is_loaded=data not in NAMED,
        timed=not reporter.quiet,
    )
    return DryRun(
        **{field.name: getattr(spec, field.name) for field in fields(spec)}, forecast=forecast
    )
