"""Models and sets of samples that somebody has changed, with digests put right behind it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpdm_cli import release, verify
from dpdm_cli.errors import DamagedFileError, PrivacyError
from dpdm_cli.files import sha256_of
from dpdm_cli.sampling import sample_metadata
from dpdm_cli.sampling.sample_metadata import Digests, SampleMetadata
from dpdm_cli.sampling.writing import open_sink

PRETRAINED = Path(__file__).parents[2] / "examples" / "pretrained" / "mnist-eps10"


MARK = "Ada Lovelace"


def refused(place: Path, name: str = "") -> None:
    """By both commands, as damage that is named; a false claim is told from damage."""
    for attempt in (lambda: verify([place]), lambda: release(place, place.parent / "out")):
        with pytest.raises((DamagedFileError, PrivacyError)) as caught:
            attempt()
        assert name in caught.value.message
        assert len(caught.value.message) < 1000
        assert not (place.parent / "out").exists()


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """As somebody does who puts the digest of the description right, unless that is what is changed."""
    values = json.loads(path.read_text())
    seal = values.get(sample_metadata._SEAL)
    change(values)
    if seal is not None and values.get(sample_metadata._SEAL) == seal:
        values[sample_metadata._SEAL] = sample_metadata._seal_of(values)
    path.write_text(json.dumps(values, indent=2) + "\n")


def digest_again(folder: Path) -> None:
    """Enter the digests of what lies there by now, as somebody would who changes it on purpose."""

    def of_samples(values: dict[str, Any]) -> None:
        metadata = SampleMetadata.from_json(values)
        sink = open_sink(metadata.format, folder, metadata.album)
        images = sink.digest()
        sink.close()
        files = {name: sha256_of(folder / name) for name in metadata.sealed.files}
        values.update(replace(metadata, digests=Digests(images=images, files=files)).to_json())

    def of_run(values: dict[str, Any]) -> None:
        values["sha256"] = {name: sha256_of(folder / name) for name in values["sha256"]}

    if (folder / "metadata.json").is_file():
        edited(folder / "metadata.json", of_samples)
    else:
        edited(folder / "manifest.json", of_run)


def copied(drawn: Path, name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn / name, tmp_path / "synth"))
