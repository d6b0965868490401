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
from typing import Any

from dpdm_cli.checkpoint import load_model, save_model
from dpdm_cli.choices import ChosenBy, SeenBy
from dpdm_cli.compute.device import resolve_device
from dpdm_cli.data.decoding import BadImageError, Fit, decode, planes
from dpdm_cli.errors import DamagedFileError, DataError, PrivacyError, UsageError
from dpdm_cli.files import CARD, disk_errors, expanded, read_bytes, sha256_of, write_bytes
from dpdm_cli.privacy.circumstances import NOTHING_KNOWN
from dpdm_cli.privacy.statement import Statement
from dpdm_cli.publishing.cards import data_card, for_people, model_card
from dpdm_cli.publishing.publishers_words import with_words
from dpdm_cli.publishing.verification import Artefact
from dpdm_cli.publishing.verifying import verify
from dpdm_cli.results import Result
from dpdm_cli.sampling.finished_images import finished_images
from dpdm_cli.sampling.grids import draw_grid
from dpdm_cli.sampling.png import PngEncoder
from dpdm_cli.sampling.sample_folder import SampleFolder
from dpdm_cli.sampling.sample_metadata import Digests
from dpdm_cli.sampling.sample_set import write_set_grid
from dpdm_cli.sampling.writing import open_sink
from dpdm_cli.stored import COPY_AGAIN, Json, json_text
from dpdm_cli.training.folder.run_folder import RunFolder

_NOTHING_LEFT = "free space or choose another folder; nothing is left of this one"
_LONGEST_EVALUATION = 100_000  # characters


@dataclass(frozen=True, repr=False)
class Release(Result):
    """What was released.

    Attributes:
        folder, kind, files: where, what it is, and which files.
        epsilon, delta, unit: the claim, and what it protects.
        people: what it is worth for a person, in words.
    """

    folder: Path
    kind: str
    epsilon: float
    delta: float
    unit: str
    people: str
    files: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line."""
        claimed = f"epsilon {self.epsilon:g}, delta {self.delta:g}, for {self.unit}"
        return f"{self.kind} in {self.folder}, {len(self.files):,} files; {claimed}"

    def picture_png(self) -> Path | bytes | None:
        """What the model draws, or the first images of each class."""
        return self.folder / ("grid.png" if self.kind == "samples" else "samples.png")

    def to_dict(self) -> Json:
        """A JSON object."""
        return {**asdict(self), "folder": str(self.folder), "files": list(self.files)}


def release(
    source: Path | str,
    out: Path | str,
    *,
    evaluation: str = "",
    runs: int | None = None,
    chosen_by: ChosenBy | None = None,
    seen_by: SeenBy | None = None,
    purpose: str | None = None,
    images_from: str | None = None,
    contact: str | None = None,
    license: str | None = None,
    images_per_person: int | None = None,
    base_model: str | None = None,
) -> Release:
    """Put a finished run, a model or a set of samples into a folder that may be published.

    Everything is verified first, so that files and keys that dpdm does not write are refused.

    Args:
        source: run folder, model file or samples.
        out: the folder; must not exist.
        evaluation: text for the card. Figures from private images are not covered by the claim.
        runs, chosen_by: how many runs were made on these images, and how this one was chosen; the statement says "not
            stated" without. Those of the source stay where they are not given.
        seen_by: who saw the images; as for `runs`.
        purpose, images_from, contact: lines for statement and card, in your words.
        license: of what is published, an SPDX identifier; none is ever guessed.
        images_per_person: the most images that anybody has among the training images, as everybody may know it: the
            card states what a claim for one image is worth for such a person.
        base_model: OWNER/NAME on the Hub of the public model whose weights this one started from, for the card.

    Raises:
        PrivacyError: the source is private, claims nothing or claims too little; no bound for so many images.
        DataError, DamagedFileError: see `verify`.
        UsageError: `out` exists, or lies in the source; images a person of a claim that is for one person; a base
            model that it has not; or see `with_words`.
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
    words: dict[str, Any] = {
        "runs": runs,
        "chosen_by": chosen_by,
        "seen_by": seen_by,
        "purpose": purpose,
        "images_from": images_from,
        "contact": contact,
        "license": license,
    }
    with_words(NOTHING_KNOWN, **words)  # before anything is read
    verified = verify([path], images_per_person=images_per_person)
    (artefact,) = verified.artefacts
    if base_model is not None and artefact.kind == "samples":
        raise UsageError(
            "a base model is given, but a set of images has none",
            "leave out --base-model, or release the model that drew them",
        )
    people = for_people(artefact.statement.plan, images_per_person, verified.restated)
    renewed = artefact.statement.renewed()
    statement = replace(renewed, about=with_words(renewed.about, **words))
    with _whole_folder(target) as folder:
        if artefact.kind == "samples":
            _samples(artefact, statement, folder, evaluation, people)
        else:
            _model(artefact, statement, folder, evaluation, people, base_model)
        verify([folder])  # whole, before it has its name
        files = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
    return Release(
        folder=target,
        kind=artefact.kind,
        epsilon=statement.epsilon,
        delta=statement.delta,
        unit=statement.plan.unit,
        people=people,
        files=tuple(files),
    )


def _is_below_private(path: Path) -> bool:
    """Whether a folder of that name is on the way, by the path as it is given or by where its links lead."""
    ways = path.absolute().parts, path.resolve().parts
    # macOS keeps /tmp and /var below /private; nothing of a run lies right below the root.
    return any("private" in (*parts[2:], *parts[-2:]) for parts in ways)


def _model(
    artefact: Artefact,
    statement: Statement,
    folder: Path,
    evaluation: str,
    people: str,
    base_model: str | None,
) -> None:
    """Write a model and what belongs to it."""
    source = artefact.path / "model.safetensors" if artefact.path.is_dir() else artefact.path
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
        people=people,
        base_model=base_model,
    )
    beside = [target.card]
    if artefact.kind == "run" and RunFolder(artefact.path).samples.is_file():
        draw_grid(model, target.samples, resolve_device("auto"), described=False)
        beside.append(target.samples)
    else:
        card = "\n".join(line for line in card.split("\n") if not line.startswith("!["))
    if artefact.kind == "run":
        beside += _previews(RunFolder(artefact.path), target)
    write_bytes(target.card, card.encode())
    target.write_manifest(*beside)


def _previews(source: RunFolder, target: RunFolder) -> list[Path]:
    """Write the pixels of a run's previews, which no weights are left to draw again; gives their files."""
    written = []
    for name in source.manifest().previews:
        file = source.path / name
        try:
            pixels = planes(decode(read_bytes(file), Fit(channels=3)).pixels[None])
        except (BadImageError, OSError) as error:
            raise DamagedFileError(f"{file}: is no preview: {error}", COPY_AGAIN) from error
        (content,) = PngEncoder(pixels.shape[1:]).encode(pixels)
        written.append(target.path / name)
        written[-1].parent.mkdir(exist_ok=True)
        write_bytes(written[-1], content)
    return written


def _samples(
    artefact: Artefact, statement: Statement, folder: Path, evaluation: str, people: str
) -> None:
    """Write a set of images and what belongs to it."""
    source = SampleFolder(artefact.path if artefact.path.is_dir() else artefact.path.parent)
    assert source.recorded, "it was verified"
    before = replace(source.recorded, digests=None)
    images = finished_images(before.format, source.path, before.album, before.to_json())
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
    card = data_card(metadata, statement, digest, evaluation, people)
    write_bytes(folder / CARD, card.encode())
    files = (target.grid, folder / CARD) if has_grid else (folder / CARD,)
    digests = Digests(images=digest, files={file.name: sha256_of(file) for file in files})
    write_bytes(target.metadata, json_text(replace(metadata, digests=digests).to_json()))


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
