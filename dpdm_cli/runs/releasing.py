"""Release: copy what may be published, by an allow-list, with a card; everything else stays behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dpdm_cli.errors import DamagedFileError, DataError, PrivacyError, ResourceError, UsageError
from dpdm_cli.runs.cards import data_card, model_card
from dpdm_cli.runs.checkpoint import load_model, save_model
from dpdm_cli.runs.files import replacing, sha256_of, write_bytes
from dpdm_cli.runs.run_folder import MANIFEST
from dpdm_cli.runs.verifying import Artefact, verify

CARD = "README.md"

STATEMENT_KEYS = frozenset(
    {
        *("private", "epsilon", "delta", "accountant", "epsilon_by", "reason", "adjacency", "unit"),
        *("sampling", "dataset_size", "sample_rate", "expected_batch_size", "steps"),
        *(
            "steps_taken",
            "sigma",
            "clip_norm",
            "noise_multiplicity",
            "divisor",
            "warm_start",
            "warm_sigma",
        ),
        *("init_from", "plan", "ledger"),
        *("not_covered", "text", "public_inputs"),
    }
)
"""What a published statement may say."""

METADATA_KEYS = frozenset(
    {
        *("kind", "private", "headline", "statement", "dataset", "classes", "n", "format"),
        *("image_shape", "drawn", "seed", "batch_size", "sampler", "sampler_from"),
        *("checkpoint_sha256", "written_by", "images_sha256", "shard"),
    }
)
"""What published samples may say of themselves."""

_LONGEST_EVALUATION = 100_000  # characters


@dataclass(frozen=True)
class Release:
    """What was released: where, what it is, and which files."""

    folder: Path
    kind: str
    epsilon: float
    delta: float
    files: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {**asdict(self), "folder": str(self.folder), "files": list(self.files)}


def release(source: Path | str, out: Path | str, *, evaluation: str = "") -> Release:
    """Copy a finished run, a model or a set of samples into a folder that may be published.

    Everything is verified first. Files and keys that are not on the allow-list are left behind or refused.

    Args:
        source: run folder, model file or samples.
        out: the folder; must not exist.
        evaluation: text for the card. Figures from private images are not covered by the claim.

    Raises:
        PrivacyError: the source is private, claims nothing or claims too little, or says more than may be published.
        DataError, DamagedFileError: see `verify`.
        UsageError: `out` exists, or lies in the source.
        ResourceError: it cannot be written; nothing is left of it.
    """
    path, target = Path(source).expanduser(), Path(out).expanduser()
    if "private" in path.resolve().parts[-2:]:
        raise PrivacyError(
            f"{path} lies under private/, which is not covered by the claim",
            "release the run folder itself: what may be published is copied from it",
        )
    with _disk_errors(target):
        if target.exists() or target.is_symlink():
            raise UsageError(f"{target} exists already", "choose another folder for the release")
    if target.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"{target} lies in {path} itself", "choose a folder outside it")
    if len(evaluation) > _LONGEST_EVALUATION:
        raise UsageError("the evaluation is longer than a card should be", "shorten it")
    (artefact,) = verify([path]).artefacts
    _check_keys(artefact.statement, STATEMENT_KEYS, path)
    with _whole_folder(target) as folder:
        if artefact.kind == "samples":
            _samples(artefact, folder, evaluation)
        else:
            _model(artefact, folder, evaluation)
        files = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
    return Release(
        folder=target,
        kind=artefact.kind,
        epsilon=artefact.statement["epsilon"],
        delta=artefact.statement["delta"],
        files=tuple(files),
    )


def _model(artefact: Artefact, folder: Path, evaluation: str) -> None:
    """Weights and description are written anew from what was understood of them: nothing else can come along."""
    source = artefact.path / "model.safetensors" if artefact.path.is_dir() else artefact.path
    model = load_model(source)
    save_model(folder / "model.safetensors", model)
    text = json.dumps(model.statement, indent=2) + "\n"
    write_bytes(folder / "statement.json", text.encode())
    names = ["model.safetensors", "statement.json"]
    if artefact.path.is_dir():
        _copy_picture(artefact.path / "samples.png", folder / "samples.png")
        names.append("samples.png")
    card = model_card(
        model.statement,
        network=asdict(model.config),
        parameters=sum(p.numel() for p in model.denoiser.network.parameters()),
        classes=model.classes,
        dataset=model.dataset,
        sha256=sha256_of(folder / "model.safetensors"),
        evaluation=evaluation,
    )
    if "samples.png" not in names:
        card = "\n".join(line for line in card.split("\n") if not line.startswith("!["))
    write_bytes(folder / CARD, card.encode())
    digests = {name: sha256_of(folder / name) for name in (*names, CARD)}
    write_bytes(folder / MANIFEST, (json.dumps({"sha256": digests}, indent=2) + "\n").encode())


def _samples(artefact: Artefact, folder: Path, evaluation: str) -> None:
    home = artefact.path if artefact.path.is_dir() else artefact.path.parent
    metadata = json.loads((home / "metadata.json").read_text(encoding="utf-8"))
    _check_keys(metadata, METADATA_KEYS, home)
    if metadata["format"] == "png":
        files = sorted(home.rglob("*.png"))
    else:
        files = [home / f"samples.{metadata['format']}", home / "grid.png"]
    for file in files:
        place = folder / file.relative_to(home)
        place.parent.mkdir(parents=True, exist_ok=True)
        if file == home / "grid.png":
            _copy_picture(file, place)
        else:
            shutil.copyfile(file, place)  # verified: it has the SHA-256 of what was drawn
    write_bytes(folder / CARD, data_card(metadata, evaluation).encode())
    write_bytes(folder / "metadata.json", (json.dumps(metadata, indent=2) + "\n").encode())


def _copy_picture(source: Path, target: Path) -> None:
    """The pixels alone: whatever else a PNG file can carry stays behind."""
    try:
        with Image.open(source, formats=["PNG"]) as picture:
            pixels = Image.frombytes(picture.mode, picture.size, picture.tobytes())
    except (OSError, ValueError, SyntaxError) as error:
        raise DamagedFileError(f"{source}: no PNG picture: {error}") from error
    with replacing(target) as temporary:
        pixels.save(temporary, format="PNG")


def _check_keys(values: dict[str, Any], allowed: frozenset[str], path: Path) -> None:
    if extra := sorted(values.keys() - allowed):
        raise PrivacyError(
            f"{path} says more than may be published: {', '.join(extra)[:200]}",
            "only what dpdm itself writes is released; make the files anew",
        )


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """Fill a folder beside the target and move it there when it is whole; leave nothing when it is not."""
    part = target.with_name(f".{target.name}.part")
    with _disk_errors(target):
        if not target.parent.is_dir():
            raise DataError(
                f"there is no folder {target.parent}", f"make it: mkdir -p {target.parent}"
            )
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir()
            yield part
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{target}: cannot write the release: {error}",  # whole: it may be the source that can't be read
            "free space or choose another folder; nothing is left of this one",
        ) from error
