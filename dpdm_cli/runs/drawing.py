"""The images of a set that are still missing, drawn batch by batch into its folder.

Image i depends on the seed, i and its class alone. Batches are aligned to the index: batch b makes the images b*B to
b*B + B - 1 and always has B rows, the last one too, whose surplus is dropped. So with one batch size an image is the
same to the bit, whoever draws it, after whatever interruption; another batch size (or device, or number of threads)
differs by rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpdm_cli.diffusion.generation import SamplerSettings, generate
from dpdm_cli.errors import DamagedFileError, InterruptedRunError, ResourceError
from dpdm_cli.parallel import parallel_map, workers_on
from dpdm_cli.runs import grids
from dpdm_cli.runs.checkpoint import Model
from dpdm_cli.runs.reporter import Reporter
from dpdm_cli.runs.sample_folder import SampleFolder
from dpdm_cli.runs.signals import StopRequest, stop_requests
from dpdm_cli.runs.writing import Album, Format, ImageSink, open_sink


@dataclass(frozen=True)
class Drawing:
    """Everything that fixes the images, and who is told about them.

    Attributes:
        model: on `device`.
        size: rows of a batch.
    """

    model: Model
    album: Album
    settings: SamplerSettings
    seed: int
    size: int
    device: torch.device
    say: Reporter

    def into(
        self, folder: SampleFolder, format: Format, metadata: dict[str, Any]
    ) -> tuple[int, Path, str]:
        """Complete the folder.

        Returns:
            How many images were drawn for that, where all of them are, and their digest.

        Raises:
            UsageError: the folder belongs to images drawn otherwise.
            DataError: the classes can't be folders.
            DamagedFileError: the folder is complete, but the images were changed since.
            InterruptedRunError: on SIGINT or SIGTERM, when the batch is written.
        """
        sink = open_sink(format, folder.path, self.album)
        was_begun = folder.recorded is not None
        try:
            folder.begin(metadata)
            if folder.is_complete:
                drawn, digest = 0, self._check(folder, sink)
            else:
                with stop_requests() as stop:
                    missing = self._missing(sink) if was_begun else self._starts()
                    drawn = self._fill(sink, missing, folder.path, stop)
                    digest = sink.finish(metadata)
                    self._write_grid(folder.grid, sink)
                    folder.complete({**metadata, "images_sha256": digest})
            folder.clean()
            sink.discard()
        finally:
            sink.close()
        return drawn, sink.path, digest

    def _check(self, folder: SampleFolder, sink: ImageSink) -> str:
        digest = sink.digest()
        if folder.recorded and digest != folder.recorded.get("images_sha256"):
            raise DamagedFileError(
                f"{folder.path}: the images aren't those that were drawn",
                "they were changed since: draw them into another folder",
            )
        self.say.note(f"{folder.path} is complete: {self.album.n:,} images, checked")
        return digest

    def _fill(self, sink: ImageSink, missing: list[int], where: Path, stop: StopRequest) -> int:
        total = self.album.n
        done = there = total - sum(len(self._indices(start)) for start in missing)
        if there:
            self.say.note(f"going on in {where}: {there:,} images are there")
        batches = parallel_map(self._draw, missing, workers_on(self.device))
        with (
            closing(batches),
            _memory_errors(),
            self.say.progress("sampling", total, "images", there) as bar,
        ):
            for start, images in zip(missing, batches, strict=True):
                kept = len(self._indices(start))
                sink.put(start, images[:kept].numpy())
                done += kept
                bar.advance(kept)
                if stop and done < total:
                    sink.flush()
                    raise InterruptedRunError(
                        f"interrupted: {done:,} of {total:,} images are in {where}",
                        "repeat the same command to go on",
                        stop.signal_number,
                    )
        return done - there

    def _starts(self) -> list[int]:
        return list(range(0, self.album.n, self.size))

    def _indices(self, start: int) -> range:
        return range(start, min(start + self.size, self.album.n))

    def _missing(self, sink: ImageSink) -> list[int]:
        return [s for s in self._starts() if not sink.has(s, self._indices(s).stop)]

    def _draw(self, start: int) -> Tensor:
        """Always `size` rows, so that every image is computed in the same place of the same shape."""
        indices = torch.arange(start, start + self.size, device=self.device)
        labels = None
        if self.album.cycle:
            cycle = torch.tensor(self.album.cycle, device=self.device)
            labels = cycle[indices % len(cycle)]
        images = generate(
            self.model.denoiser,
            indices,
            labels,
            self.model.image_shape,
            self.settings,
            seed=self.seed,
            null_label=self.model.config.classes,
        )
        return images.cpu()

    def _write_grid(self, path: Path, sink: ImageSink) -> None:
        album = self.album
        labels = [album.label(i) if album.cycle else None for i in range(album.n)]
        rows = [
            (
                "" if label is None else album.classes[label],
                torch.stack([torch.tensor(sink.read(index)) for index in row]),
            )
            for label, row in grids.first_rows(labels)
        ]
        grids.write_grid(path, rows, grids.caption(self.model, self.settings, self.seed))


@contextmanager
def _memory_errors() -> Iterator[None]:
    hint = "choose a smaller --batch-size, in another folder: images differ by rounding"
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ResourceError("out of memory while sampling", hint) from error
    except RuntimeError as error:
        if "not enough memory" in str(error) or "can't allocate memory" in str(error):
            raise ResourceError("out of memory while sampling", hint) from error
        raise
