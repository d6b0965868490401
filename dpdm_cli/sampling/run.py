"""`dpdm sample`: images from a model. One file in, a folder out that may be published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dpdm_cli import __version__
from dpdm_cli.checkpoint import load_model
from dpdm_cli.choices import Purpose, SamplerName
from dpdm_cli.compute.device import resolve_device, to_device
from dpdm_cli.compute.launched import are_several
from dpdm_cli.compute.rendezvous import joined
from dpdm_cli.diffusion.generation import SamplerSettings
from dpdm_cli.errors import UsageError
from dpdm_cli.files import disk_errors, expanded
from dpdm_cli.reporter import Reporter, heard
from dpdm_cli.results import Result
from dpdm_cli.sampling.drawing import Drawing
from dpdm_cli.sampling.proportions import by_class, cycle_of
from dpdm_cli.sampling.sample_folder import GOES_ON, SampleFolder
from dpdm_cli.sampling.sample_metadata import SampleMetadata
from dpdm_cli.sampling.sample_set import SampleSet
from dpdm_cli.sampling.sampler_presets import choose_sampler
from dpdm_cli.sampling.shards import Shard
from dpdm_cli.sampling.writing import FORMATS, Format, place_of
from dpdm_cli.stored import Json, json_digest

CPU_BATCH, CUDA_BATCH = 64, 1000
"""Images at a time when nothing else is said."""

_MOST_AT_A_TIME = 1 << 20
DEFAULT_FOLDER = "synth"
"""Beside the model."""


@dataclass(frozen=True, kw_only=True, repr=False)
class SampleResult(Result):
    """A complete set of synthetic images, or a complete shard of one.

    Attributes:
        n: how many there are; of a shard, those that belong to it.
        folder: where they are, with `grid.png` and `metadata.json`.
        images: what `dpdm fid` and `dpdm classify` are given: the folder, or the one file in it.
        drawn: how many of them this call drew; fewer than n after an interruption, 0 when the set was complete.
        sampler: how they were drawn.
        metadata: what `metadata.json` holds: the privacy statement, the sampler, the seed and the digests.
        shard: which part of a set they are; None for a whole one.
    """

    n: int
    folder: Path
    images: Path
    drawn: int
    sampler: SamplerSettings
    metadata: SampleMetadata
    shard: Shard | None = None

    @property
    def summary(self) -> str:
        """One line."""
        which = "" if self.shard is None else f", shard {self.shard}"
        return f"{self.n:,} images in {self.images}{which}; {self.metadata.statement.headline}"

    def picture_png(self) -> Path | bytes | None:
        """The first images of each class."""
        return self.folder / "grid.png"

    def to_dict(self) -> Json:
        """For JSON."""
        names = (
            *("format", "digital_source_type", "marked", "seed", "batch_size"),
            *("sampler", "sampler_from", "dataset", "classes", "drawn", "proportions"),
        )
        digests = ("checkpoint_sha256", "images_sha256")
        said, statement = self.metadata.to_json(), self.metadata.statement
        return {
            "n": self.n,
            "out": str(self.folder),
            "images": str(self.images),
            "grid": str(self.folder / "grid.png"),
            "metadata": str(self.folder / "metadata.json"),
            "drawn_now": self.drawn,
            "shard": said.get("shard"),
            **{name: said[name] for name in (*names, *digests)},
            "private": statement.private,
            "headline": statement.headline,
            "statement": statement.text,
            "epsilon": statement.epsilon,
            "delta": statement.delta,
        }


def sample(
    checkpoint: str | Path,
    out: str | Path | None = None,
    *,
    n: int,
    purpose: Purpose | None = None,
    sampler: SamplerName | SamplerSettings | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    temperature: float | None = None,
    deformation: float | None = None,
    churn: float | None = None,
    s_min: float | None = None,
    s_max: float | None = None,
    s_noise: float | None = None,
    labels: Sequence[str | int] | None = None,
    proportions: Sequence[float] | Mapping[str, float] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    format: Format = "png",
    mark: bool = True,
    shard: tuple[int, int] | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> SampleResult:
    """Draw n synthetic images from a model and write them with their privacy claim.

    Drawing is post-processing: it costs no privacy, however many images are drawn. A call that was interrupted
    continues when it is repeated; a complete set is checked and left unchanged.

    Processes that torchrun started share the batches, and the first of them writes: with one batch size and kind of
    device the same files, to the bit, as one process leaves. A shard is such a share without torchrun, in a folder of
    its own. Where shards were copied into one folder, the same call without `shard` makes them the whole set: it draws
    what is missing, checks, and writes the whole set's grid and metadata.

    Args:
        checkpoint: a `model.safetensors`, or the folder of a run.
        out: the folder; empty, absent, or of the same call. By default `synth` beside the model, of a shard
            `synth-3-of-16`.
        n: images, at least 1.
        purpose: `fid` or `accuracy` takes the paper's settings for the model's data set and epsilon.
        sampler: ddim, stochastic-ddim, euler or heun, or whole settings (not together with `purpose`); by default
            Heun's method, with 30 steps from white noise, or with 12 from the Gaussian of each class, where the model
            has one.
        steps, guidance, temperature, deformation: each over the settings so chosen, see `SamplerSettings`.
        churn, s_min, s_max, s_noise: the same of its churn (S_churn and the others of Karras et al. 2022,
            arXiv 2206.00364), for euler and heun.
        labels: classes to draw, by name or index (a name wins), repeated in this order; by default all in turn, so that
            image i has class i modulo their number.
        proportions: the share of each class in the set, in the order of the classes that are drawn, or by name; of the
            first i images each class has its share within one image. They are public and stated with the images: those
            of private images are no claim's business.
        seed: 0 to 2^63 - 1.
        batch_size: images at a time; by default 64, on CUDA 1000, and that of the images already in the folder.
        format: `png` (`train/CLASS/000123.png`, so that `train` is read by torchvision's ImageFolder and the whole by
            the `imagefolder` of `datasets`; `train/000123.png` when unconditional), `npz` (`images`, `labels`,
            `classes`), `zip` (of the same PNG files) or `parquet` (of the same, in columns `image` and `label`).
        mark: whether PNG files say that a model made them (IPTC's DigitalSourceType, as XMP), some 500 bytes each;
            `metadata.json` always does.
        shard: (3, 16) draws the third of sixteen parts of the n images: batches 3, 19, 35, ...; `png` only.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        reporter: gets remarks and progress; by default warnings are Python's, and a notebook shows progress.

    Returns:
        In every process the same.

    Raises:
        UsageError: options that do not make sense, labels for an unconditional model, a folder of something else.
        DataError, DamagedFileError: the checkpoint, see `load_model`; images changed after they were drawn; classes
            that can't be folders.
        ResourceError: no such device, not enough memory, or a full disk; another process is gone; what was written
            stays.
        InterruptedRunError: on SIGINT or SIGTERM, when the batch is written.
    """
    _check_numbers(n, seed, batch_size, format)
    whole = sampler if isinstance(sampler, SamplerSettings) else None
    given = {
        "sampler": None if isinstance(sampler, SamplerSettings) else sampler,
        "steps": steps,
        "guidance": guidance,
        "temperature": temperature,
        "deformation": deformation,
        "churn": churn,
        "s_min": s_min,
        "s_max": s_max,
        "s_noise": s_noise,
    }
    part = None if shard is None else _shard(shard, format)
    where = resolve_device(device)
    path = expanded(checkpoint)
    with joined(where, "sample") as processes:
        reporter = heard(reporter, is_first=processes.is_first)
        with processes.together():
            model = load_model(path)
            has_prior = model.denoiser.prior is not None
            choice = choose_sampler(
                whole,
                purpose=purpose,
                dataset=model.dataset,
                image_size=model.image_shape[1],
                epsilon=model.statement.epsilon,
                has_prior=has_prior,
                overrides=given,
            )
            choice.settings.check_prior(has_prior=has_prior)
            cycle, shares = _cycle(model.classes, labels), None
            if proportions is not None:
                shares = by_class(
                    proportions, model.classes, cycle, labels_given=labels is not None
                )
                cycle = cycle_of(shares, model.classes)
            if choice.settings.guidance and not model.classes:
                raise UsageError(
                    f"guidance is {choice.settings.guidance:g}, but the model knows no classes",
                    "leave it out for an unconditional model",
                )
        folder = expanded(out) if out else _default_folder(path, part)
        size = processes.broadcast(
            lambda: batch_size or _recorded_size(folder) or _default_size(where)
        )
        metadata = SampleMetadata(
            statement=model.statement,
            dataset=model.dataset,
            classes=model.classes,
            image_shape=model.image_shape,
            n=n,
            format=format,
            marked=mark,
            # Only what affects the images.
            cycle=cycle if shares else cycle[: max(n, len(model.classes))],
            proportions=shares,
            seed=seed,
            batch_size=size,
            sampler=choice.settings,
            sampler_from=choice.origin,
            checkpoint_sha256=model.sha256,
            written_by=f"dpdm {__version__}",
            shard=part,
        )
        album = metadata.album
        processes.check_same(
            json_digest({**metadata.to_json(), "device": where.type}),
            "the model, the options or the kind of device",
            "give every machine the same file and the same command",
        )
        if not model.statement.private:
            reporter.warn(model.statement.text)
        if choice.remark:
            reporter.warn(choice.remark)
        if not album.indices:
            reporter.warn(
                f"shard {part} holds no image: {n:,} images are {-(-n // size):,} batches of {size:,}; "
                "a smaller --batch-size, the same for all shards, makes more of them"
            )
        several = f", in {processes.size} processes" if processes.size > 1 else ""
        reporter.note(
            f"sampler: {choice.settings} ({choice.origin}); {choice.settings.evaluations:,} evaluations of the "
            f"network an image, {size} images at a time on {where}{several}"
        )
        to_device(model.denoiser, where)
        drawing = Drawing(
            model, metadata.cycle, choice.settings, seed, size, where, processes, reporter
        )
        drawn, digests = drawing.into(SampleSet(folder, metadata, reporter))
    return SampleResult(
        n=len(album.indices),
        folder=folder,
        images=place_of(format, folder),
        drawn=drawn,
        sampler=choice.settings,
        metadata=replace(metadata, digests=digests),
        shard=part,
    )


def _check_numbers(n: int, seed: int, batch_size: int | None, format: str) -> None:
    if n < 1:
        raise UsageError(f"the number of images must be at least 1, found {n}")
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"the seed must be at least 0 and below 2^63, found {seed}")
    if batch_size is not None and not 1 <= batch_size <= _MOST_AT_A_TIME:
        raise UsageError(
            f"the batch size must be between 1 and {_MOST_AT_A_TIME:,}, found {batch_size}"
        )
    if format not in FORMATS:
        raise UsageError(f"unknown format {format!r}", f"choose one of {', '.join(FORMATS)}")


def _shard(given: tuple[int, int], format: str) -> Shard:
    shard = Shard(*given)
    if are_several():
        raise UsageError(
            "a shard is drawn by one process, but torchrun started several",
            "they share the images by themselves: leave out --shard, or start without torchrun",
        )
    if format != "png":
        raise UsageError(
            f"a shard can't be {format}: that is one file of all images, and shards are merged by copying their files",
            "leave out --format; whatever reads npz, zip or parquet reads folders of PNG files too",
        )
    return shard


def _default_folder(checkpoint: Path, shard: Shard | None) -> Path:
    beside = checkpoint if checkpoint.is_dir() else checkpoint.parent
    return beside / (DEFAULT_FOLDER + (shard.folder if shard else ""))


def _cycle(classes: tuple[str, ...], labels: Sequence[str | int] | None) -> tuple[int, ...]:
    """Label of image i, for i below the length; then from the start again."""
    if labels is None:
        return tuple(range(len(classes)))
    if not classes:
        raise UsageError("labels are given, but the model knows no classes", "leave out --labels")
    if not labels:
        raise UsageError("no label is given", "name one, or leave out --labels to draw all classes")

    def label(given: str | int) -> int:
        given = given.strip() if isinstance(given, str) else given
        if isinstance(given, str) and given in classes:
            return classes.index(given)
        is_index = isinstance(given, int) or (given.isdecimal() and len(given) < 10)
        index = int(given) if is_index else -1
        if not 0 <= index < len(classes):
            known = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
            raise UsageError(
                f"the model knows no class {str(given)[:80]!r}",
                f"name one of {known}, or an index from 0 to {len(classes) - 1}",
            )
        return index

    return tuple(label(given) for given in labels)


def _recorded_size(path: Path) -> int | None:
    with disk_errors(path, GOES_ON):
        recorded = SampleFolder(path).recorded
    return None if recorded is None else recorded.batch_size


def _default_size(device: torch.device) -> int:
    return CUDA_BATCH if device.type == "cuda" else CPU_BATCH
