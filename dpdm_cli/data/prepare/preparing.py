"""`dpdm prepare`: a folder or archive of any size becomes one file that training maps into memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from shutil import disk_usage
from typing import Unpack

import numpy as np
import torch

from dpdm_cli import __version__
from dpdm_cli.choices import Split
from dpdm_cli.compute.threads import parallel_map
from dpdm_cli.data.class_names import check_new_classes
from dpdm_cli.data.collecting import Findings, read_chunk
from dpdm_cli.data.decoder_process import decoders
from dpdm_cli.data.decoding import IN_WORDS, Decoded, Fit, Pixels, planes, refit
from dpdm_cli.data.duplicates import repeated
from dpdm_cli.data.listing import Listing, list_images, numbered
from dpdm_cli.data.prepare.holding_out import HoldOut, check_share, held_out, held_out_path
from dpdm_cli.data.prepare.places import ANOTHER, check_complete, check_places, complete_file
from dpdm_cli.data.prepare.prepared import Facts, header_of, padding_of, reserved_bytes
from dpdm_cli.data.prepare.unfinished import Unfinished
from dpdm_cli.data.reading import ReadingOptions, reading_of
from dpdm_cli.errors import DataError, InterruptedRunError, ResourceError, UsageError
from dpdm_cli.files import disk_errors, expanded
from dpdm_cli.keywords import keywords_shown
from dpdm_cli.reporter import Reporter, heard
from dpdm_cli.results import Result
from dpdm_cli.signals import stop_requests
from dpdm_cli.stored import Json, optional

_FIRST_FILES = 16
_BATCH_FILES, _BATCH_BYTES = 256, 8 << 20  # what a process decodes at a time
_WORTH_PROCESSES = 2_000  # files; below, starting them takes longer

_GOES_ON = "Free space and repeat the command, which goes on where it was, or choose another OUT."


@dataclass(frozen=True, kw_only=True, repr=False)
class PrepareResult(Result):
    """A prepared file.

    Attributes:
        path: the file.
        facts: what it says of itself.
        pairs: the first 20 images that equal an earlier one, with that one; empty when the file was there already.
        was_there: whether it had been complete before this call, which then only checked it.
        held_out: the file of what was held out, if that was asked for.
    """

    path: Path
    facts: Facts
    pairs: tuple[tuple[str, str], ...]
    was_there: bool
    held_out: PrepareResult | None = None

    @property
    def summary(self) -> str:
        """One line."""
        n, channels, height, width = self.facts.shape
        return f"{n:,} images of {height}x{width} pixels, {channels} channels, in {self.path}"

    def to_dict(self) -> Json:
        """For JSON."""
        facts = self.facts
        n, channels, height, width = facts.shape
        return {
            "out": str(self.path),
            "n": n,
            "channels": channels,
            "height": height,
            "width": width,
            "classes": list(facts.classes),
            "source": facts.source,
            "split": facts.split,
            "duplicates": facts.duplicates,
            "first_duplicates": [list(pair) for pair in self.pairs],
            "left_out": facts.bad,
            "first_left_out": list(facts.first_bad),
            "content_sha256": facts.content,
            "was_there": self.was_there,
            "window": None if facts.window is None else list(facts.window),
            "knows_persons": facts.persons_sha256 is not None,
            "held_out": self.held_out and self.held_out.to_dict(),
        }


@keywords_shown
def prepare(
    source: str | Path,
    out: str | Path,
    *,
    split: Split = "train",
    data_dir: Path | None = None,
    download: bool = True,
    image_size: int | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    skip_bad: bool = False,
    hold_out: float | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
    **options: Unpack[ReadingOptions],
) -> PrepareResult:
    """Decode and check every image once, and write them into one file for `load_images`.

    A call that was cut off, by whatever, goes on when it is repeated. One that is complete is checked and left as it
    is. No image is in memory for longer than it takes to write it; a file takes some 200 bytes of memory.

    Args:
        source: as for `load_images`. Arrays (.npz, most named sets) are read into memory as there.
        out: the file; its name ends in .safetensors.
        split, data_dir, download, image_size, channels, classes: as for `load_images`.
        skip_bad: leave out files that cannot be used; the file says which.
        hold_out: this share of the images, or of the persons where these are known, goes into a second file, `held_out`
            of the result, to test on what is made of the first. See `held_out` of `holding_out`.
        seed: of which are held out.
        reporter: gets remarks and progress; by default warnings are Python's, and a notebook shows progress.
        options: how files are read (labels, label_column, file_column, person_column, layout, window), see `Reading`.

    Raises:
        UsageError: options that make no sense; `out` holds something else, or was begun by another command.
        DataError: files that cannot be used (after all were looked at), images of several sizes or kinds, and what
            `load_images` raises.
        DamagedFileError: the complete file is not what was written.
        ResourceError: not enough space on the disk, or what `load_images` raises; what was written stays.
        InterruptedRunError: on SIGINT or SIGTERM, when what is decoded is saved.
    """
    reporter = heard(reporter)
    path = expanded(out)
    paths = [path]
    if hold_out is not None:
        check_share(hold_out)
        paths.append(held_out_path(path))
    for each in paths:
        check_places(source, each)
        if each.exists():
            complete_file(each)
    reading = reading_of(options, skip_bad)
    reporter.note(f"looking through {source}")
    listing = list_images(
        source,
        split=split,
        data_dir=data_dir,
        download=download,
        fit=Fit(image_size=image_size, channels=channels, window=reading.window),
        classes=classes,
        reading=reading,
        reporter=reporter,
    )
    check_new_classes(listing.classes, str(source))
    request: Json = {
        "split": split,
        "image_size": listing.fit.image_size,
        "channels": listing.fit.channels,
        "window": None if reading.window is None else list(reading.window),
        "classes": list(listing.classes),
        "source_sha256": listing.digest(),
        "held_out": None,
    }
    if hold_out is None:
        return _prepared(path, listing, request, skip_bad, reporter)
    chosen = held_out(listing, hold_out, seed)
    parts = [
        _prepared(
            place,
            listing.part(np.flatnonzero(chosen == apart)),
            {**request, "held_out": asdict(HoldOut(hold_out, seed, apart, other.name))},
            skip_bad,
            reporter,
        )
        for place, other, apart in ((path, paths[1], False), (paths[1], path, True))
    ]
    return replace(parts[0], held_out=parts[1])


def _prepared(
    path: Path, listing: Listing, request: Json, skip_bad: bool, reporter: Reporter
) -> PrepareResult:
    """One file, made or found."""
    if path.exists():
        file = complete_file(path)
        check_complete(file, request, skip_bad, reporter)
        result = PrepareResult(path=path, facts=file.facts, pairs=(), was_there=True)
    else:
        with disk_errors(path, _GOES_ON):
            path.parent.mkdir(parents=True, exist_ok=True)
            result = _Preparation(path, listing, request, skip_bad, reporter).run()
    _remark(result, reporter)
    return result


class _Preparation:
    """One file in the making."""

    def __init__(
        self, path: Path, listing: Listing, request: Json, skip_bad: bool, reporter: Reporter
    ) -> None:
        self._path, self._listing, self._request = path, listing, request
        self._skip_bad, self._reporter = skip_bad, reporter
        self._start = reserved_bytes(listing.classes)
        self._there = Unfinished(
            path, {**request, "files": len(listing)}, self._start, len(listing)
        )
        self._findings = Findings(listing.where, len(listing), listing.fit)

    def run(self) -> PrepareResult:
        """Begin or go on, to the end."""
        there = self._there
        with there.open():
            self._recall()
            try:
                self._decode()
            except DataError:
                there.discard()  # other options are needed, or other files: nothing of this is
                raise
            if not self._skip_bad:
                kept = there.part.with_name(f"{there.part.stem}*.part")
                self._findings.check_files(
                    " Or leave them out with --skip-bad: what is decoded is kept for that, in the "
                    f"hidden files {kept}"
                )
            if not there.rows:
                there.discard()
                files = "\n".join(f"  {line}" for line in self._findings.first_bad)
                raise DataError(
                    f"none of the {len(self._listing):,} files in {self._listing.where} can be used, "
                    f"the first:\n{files}",
                    f"Give grey or RGB images: {IN_WORDS}.",
                )
            return self._finish()

    def _recall(self) -> None:
        """Judge what an earlier call took as if it had just come."""
        there = self._there
        for index, reason in zip_longest(there.bad, there.reasons, fillvalue=""):
            self._findings.take_bad(self._listing.title(int(index)), str(reason))
        if there.shape:
            channels, height, width = there.shape
            self._findings.take((width, height), channels == 3, there.rows)
            self._check_space(there.shape)
        if there.files:
            self._reporter.note(f"continuing after {there.files:,} of {len(self._listing):,} files")

    def _decode(self) -> None:
        there, total = self._there, len(self._listing)
        with (
            stop_requests() as stop,
            closing(_decoded(self._listing, there)) as batches,
            self._reporter.progress("preparing", total, "images", there.files) as progress,
        ):
            for batch in batches:
                self._take(batch)
                progress.advance(len(batch), **self._seen())
                if stop and there.files < total:
                    there.save()
                    raise InterruptedRunError(
                        f"stopped after {there.files:,} of {total:,} images, which are saved",
                        "repeat the command to continue",
                        stop.signal_number,
                    )
            there.save()

    def _take(self, batch: Sequence[Decoded | str]) -> None:
        there, findings, start = self._there, self._findings, self._there.files
        good = [found for found in batch if isinstance(found, Decoded)]
        bad = [(start + i, found) for i, found in enumerate(batch) if isinstance(found, str)]
        if bad and not findings.bad and not self._skip_bad:
            title, reason = self._listing.title(bad[0][0]), bad[0][1]
            self._reporter.warn(f"{title} {reason}; continuing with the other files")
        for index, reason in bad:
            findings.take_bad(self._listing.title(index), reason)
        for found in good:
            findings.take(found.size, found.pixels.ndim == 3)
        findings.check_kind()
        images = planes(np.stack([found.pixels for found in good])) if good else _NONE
        if good and there.shape is None:
            self._check_space(images.shape[1:])
        there.append(images, bad)

    def _seen(self) -> dict[str, str]:
        return {"bad": f"{self._findings.bad:,}"} if self._findings.bad else {}

    def _check_space(self, shape: tuple[int, ...]) -> None:
        """Refuse to begin what the disk has no room for."""
        left = len(self._listing) - self._there.files
        needed = left * math.prod(shape) + 16 * len(self._listing) + self._start
        free = disk_usage(self._path.parent).free
        if needed > free:
            raise ResourceError(
                f"{self._path} needs {needed:,} bytes more of the disk, {free:,} are free",
                _GOES_ON,
            )

    def _finish(self) -> PrepareResult:
        there, listing = self._there, self._listing
        assert there.shape
        channels, height, width = there.shape
        shape = there.rows, channels, height, width
        kept = np.delete(np.arange(len(listing)), np.array(there.bad, np.int64))
        # Not those of `listing.part`, which takes a copy of images that are arrays.
        persons_kept = None if listing.persons is None else numbered(listing.persons[kept])[1]
        labels_kept = None if listing.labels is None else listing.labels[kept]
        labels, persons = (
            None if numbers is None else numbers.astype("<i8").tobytes()
            for numbers in (labels_kept, persons_kept)
        )
        duplicates, pairs = repeated(there.digests)
        facts = Facts(
            shape=shape,
            classes=listing.classes,
            split=str(self._request["split"]),
            image_size=listing.fit.image_size,
            channels=listing.fit.channels,
            source=listing.name if listing.name.isprintable() else ascii(listing.name),
            source_sha256=str(self._request["source_sha256"]),
            images_sha256=there.images_sha256,
            labels_sha256=None if labels is None else hashlib.sha256(labels).hexdigest(),
            duplicates=duplicates,
            bad=len(there.bad),
            first_bad=tuple(self._findings.first_bad),
            written_by=f"dpdm {__version__}",
            window=listing.fit.window,
            persons_sha256=None if persons is None else hashlib.sha256(persons).hexdigest(),
            held_out=optional(lambda part: HoldOut(**part))(self._request["held_out"]),
        )
        if self._path.exists():
            raise UsageError(f"{self._path} has come into being meanwhile", ANOTHER)
        tail = bytes(padding_of(shape)) if facts.numbers else b""
        tail += (labels or b"") + (persons or b"")
        there.finish(header_of(facts), tail)
        named = tuple((listing.title(kept[a]), listing.title(kept[b])) for a, b in pairs)
        return PrepareResult(path=self._path, facts=facts, pairs=named, was_there=False)


def _decoded(listing: Listing, there: Unfinished) -> Generator[Sequence[Decoded | str], None, None]:
    """What the files after those that were looked at hold, a batch at a time, in order."""
    images, fit = listing.images, listing.fit
    if isinstance(images, np.ndarray):
        height, width = images.shape[1:3]
        for span in _spans(len(images), there):
            yield [Decoded(pixels, (width, height)) for pixels in refit(images[span], fit)]
        return
    # As many as torch counts cores, which OMP_NUM_THREADS and cluster schedulers set.
    workers = torch.get_num_threads() if len(images) - there.files >= _WORTH_PROCESSES else 1
    chunks = (images[span] for span in _spans(len(images), there))
    if workers == 1:
        yield from (read_chunk(chunk, fit) for chunk in chunks)
        return
    with (
        decoders(workers, fit) as decode,
        closing(parallel_map(decode, chunks, workers)) as batches,
    ):
        yield from batches


def _spans(total: int, there: Unfinished) -> Iterator[slice]:
    """What is decoded at a time: little until the size of an image is known, and of large images."""
    start = there.files
    while start < total:
        count = _FIRST_FILES
        if there.shape:
            count = max(1, min(_BATCH_FILES, _BATCH_BYTES // math.prod(there.shape)))
        yield slice(start, min(start + count, total))
        start += count


def _remark(result: PrepareResult, reporter: Reporter) -> None:
    facts = result.facts
    if facts.bad:
        files = "\n".join(f"  {line}" for line in facts.first_bad)
        reporter.warn(f"{facts.bad:,} files cannot be used and are left out, the first:\n{files}")
    if facts.duplicates:
        pairs = "".join(f"\n  {later} = {first}" for later, first in result.pairs)
        reporter.warn(
            f"{facts.duplicates:,} images equal an earlier one, pixel for pixel. All are kept: the claim protects one "
            "file, not one picture, and a picture that is there twice only half as well. Whether copies belong in the "
            f"set is for you to decide; remove them from the source if not.{pairs}"
        )


_NONE: Pixels = np.empty((0, 1, 1, 1), np.uint8)
