"""Release: what may be published, with a card, made anew from what was understood of it; all else stays behind.

No byte is copied: weights and images are read and written again, pictures are drawn from them, statements and
descriptions follow from what they were made from. So what a file carries beside that, hidden or not, does not come
along.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from dpdm_cli.checkpoint import load_model, save_model
from dpdm_cli.compute.device import resolve_device
from dpdm_cli.errors import DataError, PrivacyError, UsageError
from dpdm_cli.files import CARD, disk_errors, expanded, sha256_of, write_bytes
from dpdm_cli.privacy.statement import Statement
from dpdm_cli.publishing.cards import data_card, model_card
from dpdm_cli.publishing.verification import Artefact
from dpdm_cli.publishing.verifying import verify
from dpdm_cli.results import Result
from dpdm_cli.sampling.finished_images import finished_images
from dpdm_cli.sampling.grids import draw_grid
from dpdm_cli.sampling.sample_folder import SampleFolder
from dpdm_cli.sampling.sample_metadata import Digests
from dpdm_cli.sampling.sample_set import write_set_grid
from dpdm_cli.sampling.writing import open_sink
from dpdm_cli.stored import Json, json_text
from dpdm_cli.training.folder.run_folder import RunFolder

_NOTHING_LEFT = "free space or choose another folder; nothing is left of this one"
_LONGEST_EVALUATION = 100_000  # characters


@dataclass(frozen=True, repr=False)
class Release(Result):
    """What was released: where, what it is, and which files."""

    folder: Path
    kind: str
    epsilon: float
    delta: float
    files: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line."""
        claimed = f"epsilon {self.epsilon:g}, delta {self.delta:g}, per image"
        return f"{self.kind} in {self.folder}, {len(self.files):,} files; {claimed}"

    def picture_png(self) -> Path | bytes | None:
        """What the model draws, or the first images of each class."""
        return self.folder / ("grid.png" if self.kind == "samples" else "samples.png")

    def to_dict(self) -> Json:
        """A JSON object."""
        return {**asdict(self), "folder": str(self.folder), "files": list(self.files)}


def release(source: Path | str, out: Path | str, *, evaluation: str = "") -> Release:
    """Put a finished run, a model or a set of samples into a folder that may be published.

    Everything is verified first, so that files and keys that dpdm does not write are refused.

    Args:
        source: run folder, model file or samples.
        out: the folder; must not exist.
        evaluation: text for the card. Figures from private images are not covered by the claim.

    Raises:
        PrivacyError: the source is private, claims nothing or claims too little.
        DataError, DamagedFileError: see `verify`.
        UsageError: `out` exists, or lies in the source.
        ResourceError: it cannot be written; nothing is left of it.
    """
    path, target = expanded(source), expanded(out)
    if _is_below_private(path):
        raise PrivacyError(
            f"{path} is under private/, which is not covered by the claim",
            "release the run folder itself: what may be published is written again from it; if that private/ is of no "
            "run, move the source out of it",
        )
    with disk_errors(target, _NOTHING_LEFT):
        if target.exists() or target.is_symlink():
            raise UsageError(f"{target} exists already", "choose another folder for the release")
    if target.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"{target} is in {path} itself", "choose a folder outside it")
    if len(evaluation) > _LONGEST_EVALUATION:
        raise UsageError("the evaluation is longer than a card should be", "shorten it")
    (artefact,) = verify([path]).artefacts
    with _whole_folder(target) as folder:
        if artefact.kind == "samples":
            statement = _samples(artefact, folder, evaluation)
        else:
            statement = _model(artefact, folder, evaluation)
        verify([folder])  # whole, before it has its name
        files = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
    return Release(
        folder=target,
        kind=artefact.kind,
        epsilon=statement.epsilon,
        delta=statement.delta,
        files=tuple(files),
    )


def _is_below_private(path: Path) -> bool:
    """Whether a folder of that name is on the way, by the path as it is given or by where its links lead."""
    ways = path.absolute().parts, path.resolve().parts
    # macOS keeps /tmp and /var below /private; nothing of a run lies right below the root.
    return any("private" in (*parts[2:], *parts[-2:]) for parts in ways)


def _model(artefact: Artefact, folder: Path, evaluation: str) -> Statement:
    """Write a model and what belongs to it; gives its statement."""
    source = artefact.path / "model.safetensors" if artefact.path.is_dir() else artefact.path
    statement = artefact.statement.renewed()
    model = replace(load_model(source), statement=statement)
    target = RunFolder(folder)
    save_model(target.model, model)
    target.write_statement(statement)
    card = model_card(
        statement,
        image_shape=model.image_shape,
        parameters=sum(p.numel() for p in model.denoiser.network.parameters()),
        classes=model.classes,
        dataset=model.dataset,
        sha256=sha256_of(target.model),
        evaluation=evaluation,
    )
    beside = [target.card]
    if artefact.kind == "run" and RunFolder(artefact.path).samples.is_file():
        draw_grid(model, target.samples, resolve_device("auto"), described=False)
        beside.append(target.samples)
    else:
        card = "\n".join(line for line in card.split("\n") if not line.startswith("!["))
    write_bytes(target.card, card.encode())
    target.write_manifest(*beside)
    return statement


def _samples(artefact: Artefact, folder: Path, evaluation: str) -> Statement:
    """Write a set of images and what belongs to it; gives its statement."""
    source = SampleFolder(artefact.path if artefact.path.is_dir() else artefact.path.parent)
    assert source.recorded, "it was verified"
    before = replace(source.recorded, digests=None)
    images = finished_images(before.format, source.path, before.album, before.to_json())
    statement = artefact.statement.renewed()
    metadata = replace(before, statement=statement)
    target = SampleFolder(folder)
    sink = open_sink(metadata.format, folder, metadata.album)
    try:
        for start, rows in images:
            sink.put(start, rows)
        digest = sink.finish(metadata.to_json())
        has_grid = write_set_grid(target.grid, metadata, sink.read, described=False)
        sink.discard()
    finally:
        sink.close()
    write_bytes(folder / CARD, data_card(metadata, statement, digest, evaluation).encode())
    files = (target.grid, folder / CARD) if has_grid else (folder / CARD,)
    digests = Digests(images=digest, files={file.name: sha256_of(file) for file in files})
    write_bytes(target.metadata, json_text(replace(metadata, digests=digests).to_json()))
    return statement


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """Fill a folder of this process's own beside the target and move it there when it is whole; leave nothing when it
    is not.
    """
    with disk_errors(target, _NOTHING_LEFT):
        if not target.parent.is_dir():
            raise DataError(
                f"there is no folder {target.parent}", f"make it: mkdir -p {target.parent}"
            )
        with TemporaryDirectory(
            prefix=f".{target.name[:40]}-",
            suffix=".part",
            dir=target.parent,
            ignore_cleanup_errors=True,
        ) as own:
            part = Path(own, "release")  # as open to others as any new folder
            part.mkdir()
            yield part
            try:
                part.rename(target)
            except OSError as error:
                if os.path.lexists(target):
                    raise UsageError(
                        f"{target} has come into being meanwhile",
                        "choose another folder for the release",
                    ) from error
                raise
