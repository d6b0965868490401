"""`dpdm train --dry-run`: the run that a call of `train` would be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from dpdm_cli.choices import Preset
from dpdm_cli.compute.device import resolve_device
from dpdm_cli.data import load_images
from dpdm_cli.data.decoding import Fit
from dpdm_cli.data.named import NAMED
from dpdm_cli.keywords import keywords_shown
from dpdm_cli.training.config.network import blank_images
from dpdm_cli.training.config.request import TrainOptions, request_run
from dpdm_cli.training.config.run_spec import RunSpec, resolve
from dpdm_cli.training.config.settings import default_preset


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
    **options: Unpack[TrainOptions],
) -> RunSpec:
    """What `train` with the same arguments would do; takes no step and writes nothing.

    A named set's files are not opened: its facts are public. Raises as `train` does.
    """
    request = request_run(
        data,
        preset or default_preset(resolve_device(device).type),
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
        return resolve(request, blank_images(data, request.settings))
    images = load_images(
        data,
        data_dir=data_dir,
        download=download,
        image_size=request.settings.image_size,
        channels=channels,
        classes=classes,
        reading=request.stated.reading,
    )
    return resolve(request, images)
