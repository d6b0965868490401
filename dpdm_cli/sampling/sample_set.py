"""A set of synthetic images, or a shard of one, being written into a folder: begun or continued, filled, sealed.

Knows files; draws nothing. Of several processes the first alone uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from shutil import disk_usage

import numpy as np
import torch

from dpdm_cli.errors import DamagedFileError, ResourceError
from dpdm_cli.files import check_digests, disk_errors, sha256_of
from dpdm_cli.reporter import Reporter
from dpdm_cli.sampling import grids
from dpdm_cli.sampling.finished_images import finished_images
from dpdm_cli.sampling.png import Pixels
from dpdm_cli.sampling.sample_folder import GOES_ON, SampleFolder
from dpdm_cli.sampling.sample_metadata import Digests, SampleMetadata
from dpdm_cli.sampling.shards import Shard
from dpdm_cli.sampling.writing import ImageSink, open_sink
from dpdm_cli.stored import Json

_LEAST_BYTES = 67  # of a PNG file


@dataclass
class SampleSet:
    """One set. Nothing is read or written before `begin`.

    Attributes:
        path: its folder.
        metadata: what is to be said of it; the digests are added when it is sealed.

    Raises, every method: ResourceError: the folder can't be written; what is there stays.
    """

    path: Path
    metadata: SampleMetadata
    reporter: Reporter
    _opened: tuple[SampleFolder, ImageSink] | None = field(default=None, init=False)
    _digests: Digests | None = field(default=None, init=False)
    _held: ExitStack = field(default_factory=ExitStack, init=False)

    def __post_init__(self) -> None:
        self.album = self.metadata.album

    def begin(self) -> list[int]:
        """Lock the folder until `close`, and begin the set, continue it, or extend the smaller one that lies there.

        Returns:
            The first missing image of each batch that is not whole. Images before it stay as they are.

        Raises:
            UsageError: the folder belongs to images drawn otherwise, or another process draws into it.
            DataError: the classes can't be folders.
            DamagedFileError: the set is complete, or a shard of it or a smaller set, but its images were changed
                since; what a shard says about itself cannot be read.
        """
        with disk_errors(self.path, GOES_ON):
            folder = SampleFolder(self.path)
            sink = open_sink(self.metadata.format, self.path, self.album)
            self._opened = folder, sink
            folder.check(self.metadata)
            if not folder.is_complete:
                self._held.enter_context(folder.begun(self.metadata))
            is_new = folder.recorded is None
            if folder.is_complete:
                self._check_complete()
                return []
            self._check_room()
            if folder.smaller is not None:
                self._extend(folder.smaller)
            starts = (self.metadata.shard or Shard(1, 1)).starts(
                self.album.n, self.metadata.batch_size
            )
            if is_new:
                return list(starts)
            there = {s for s in starts if self._next(s) not in self.indices(s)}
            # Only PNG files are ever merged.
            if self.metadata.shard is None and self.metadata.format == "png":
                there = self._take_over(there)
            return [self._next(start) for start in starts if start not in there]

    def indices(self, start: int) -> range:
        """The images of the batch that begins there."""
        return range(start, min(start + self.metadata.batch_size, self.album.n))

    def missing(self, first: int) -> range:
        """The images of a batch from its first missing one on."""
        return range(first, self.indices(first - first % self.metadata.batch_size).stop)

    def put(self, batches: Iterable[tuple[int, Pixels]]) -> None:
        """Take whole batches, uint8 [R, C, H, W] each, by their first missing image.

        Rows before it are there already, and those beyond the last image are nobody's.
        """
        with disk_errors(self.path, GOES_ON):
            for first, rows in batches:
                skipped, taken = first % self.metadata.batch_size, len(self.missing(first))
                self._sink.put(first, rows[skipped : skipped + taken])

    def flush(self) -> None:
        """Wait until everything taken is written."""
        with disk_errors(self.path, GOES_ON):
            self._sink.flush()

    def seal(self) -> Json:
        """Write everything that makes the set complete; all images must have been taken. Gives `Digests.to_json`."""
        with disk_errors(self.path, GOES_ON):
            if self._digests is None:
                images = self._sink.finish(self.metadata.to_json())
                self._digests = Digests(images=images, files=self._write_grid())
                self._folder.complete(replace(self.metadata, digests=self._digests))
            self._sink.discard()
            self._folder.clean(self.metadata.shard)  # with what it was held by
            return self._digests.to_json()

    def close(self) -> None:
        """Stop; what was taken and neither flushed nor sealed may be lost."""
        if self._opened is not None:
            self._sink.close()
        self._held.close()

    @property
    def _folder(self) -> SampleFolder:
        assert self._opened, "begin comes first"
        return self._opened[0]

    @property
    def _sink(self) -> ImageSink:
        assert self._opened, "begin comes first"
        return self._opened[1]

    def _check_room(self) -> None:
        """Refuse a set that no disk like this one holds, before each image is given a name."""
        count, size = len(self.album.indices), disk_usage(self.path).total
        if count * _LEAST_BYTES > size:
            raise ResourceError(
                f"{self.path}: {count:,} images are more than a disk of {size:,} bytes holds",
                "draw fewer, or choose another --out",
            )

    def _next(self, start: int) -> int:
        """The first missing image of the batch that begins there, or the one after the batch."""
        return start + self._sink.whole(start, self.indices(start).stop)

    def _check_complete(self) -> None:
        assert self._folder.recorded
        self._digests = self._folder.recorded.sealed
        self._check_images(self._sink, self._digests)
        count = len(self.album.indices)
        self.reporter.note(f"{self.path} is complete: {count:,} images, checked")

    def _check_images(self, sink: ImageSink, digests: Digests) -> None:
        if digests.images != sink.digest():
            raise DamagedFileError(
                f"{self.path}: the images aren't those that were drawn",
                "they were changed since: draw them into another folder",
            )
        check_digests(self.path, digests.files)

    def _extend(self, smaller: SampleMetadata) -> None:
        """Make a smaller set the first images of this one, which is unfinished then."""
        if smaller.digests is not None:
            self._take_from(smaller, smaller.digests)
        self._folder.extend(self.metadata)

    def _take_from(self, smaller: SampleMetadata, digests: Digests) -> None:
        there = open_sink(smaller.format, self.path, smaller.album)
        try:
            self._check_images(there, digests)
        finally:
            there.close()
        if smaller.format != "png":
            of_file = replace(smaller, digests=None).to_json()
            chunks = finished_images(smaller.format, self.path, smaller.album, of_file)
            images = (image for _, rows in chunks for image in rows)
            for start in range(0, smaller.n, smaller.batch_size):
                rows = list(islice(images, smaller.batch_size))
                self._sink.put(start, np.stack(rows))

    def _take_over(self, there: set[int]) -> set[int]:
        """Continue merged shards as one set. Gives the batches that are there and vouched for by a record.

        A complete shard vouches for its images together, by their digest; an unfinished one, or an unfinished whole
        set, for each batch it left.
        """
        folder, n, size = self._folder, self.album.n, self.metadata.batch_size
        refuted = []
        doubtful = set() if folder.is_whole else set(range(0, n, size))
        for shard in folder.unfinished_shards():
            doubtful.difference_update(shard.starts(n, size))
        for shard, record in folder.complete_shards().items():
            if there.issuperset(shard.starts(n, size)):
                self._check_shard(shard, record)
                doubtful.difference_update(shard.starts(n, size))
            else:
                refuted.append(shard)
        # What is left of these can't be checked, whoever else vouches for it.
        doubtful.update(*(shard.starts(n, size) for shard in refuted))
        if lost := sum(len(self.indices(start)) for start in there & doubtful):
            self.reporter.warn(
                f"{lost:,} images in {self.path} are drawn again: copy whole shards, each with its hidden file"
            )
        # Removed before the whole set vouches for all that lies there, so that it can be interrupted and gone on with.
        for start in doubtful:
            for index in self.indices(start):
                (self.path / self.album.member(index)).unlink(missing_ok=True)
        folder.take_over(self.metadata, refuted)
        return there - doubtful

    def _check_shard(self, shard: Shard, record: SampleMetadata) -> None:
        """Compare the images of a shard, all of which are here, with its record of them."""
        part = replace(self.album, part=shard.indices(self.album.n, self.metadata.batch_size))
        sink = open_sink(self.metadata.format, self.path, part)
        try:
            found = sink.digest()
        finally:
            sink.close()
        if found != record.sealed.images:
            raise DamagedFileError(
                f"{self.path}: the images of shard {shard} aren't those that were drawn",
                "copy the files of that shard again",
            )

    def _write_grid(self) -> dict[str, str]:
        """The picture's digest by its name; none without an image."""
        grid = self._folder.grid
        has_images = write_set_grid(grid, self.metadata, self._sink.read)
        return {grid.name: sha256_of(grid)} if has_images else {}


def write_set_grid(
    path: Path, metadata: SampleMetadata, read: Callable[[int], Pixels], *, described: bool = True
) -> bool:
    """Draw the picture of a set, unless the set has no image. Gives whether it was drawn.

    Args:
        read: gives the image of an index, uint8 [C, H, W].
        described: whether the caption is also stored as the file's description.
    """
    album = metadata.album
    labels = [album.label(i) if album.cycle else None for i in album.indices]
    rows = [
        (
            "" if label is None else album.classes[label],
            torch.stack([torch.tensor(read(album.indices[at])) for at in row]),
        )
        for label, row in grids.first_rows(labels)
    ]
    if rows:
        text = grids.caption(metadata.statement, metadata.dataset, metadata.sampler, metadata.seed)
        grids.write_grid(path, rows, text, described=described, marked=metadata.marked)
    return bool(rows)
