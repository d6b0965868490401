"""The images of a set that are still missing, drawn batch by batch, by one process or by several.

Image i depends on the seed, i and its class alone. Batches are aligned to the index: batch b makes the images b*B to
b*B + B - 1 and always has B rows, the last one too, whose surplus is dropped, and on a CPU one thread computes it. So
with one batch size and kind of device an image is the same to the bit, whoever draws it, after whatever interruption;
another batch size or device differs by rounding.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dpdm_cli.checkpoint import Model
from dpdm_cli.compute.device import memory_errors
from dpdm_cli.compute.distributed import Processes
from dpdm_cli.compute.threads import parallel_map, workers_on
from dpdm_cli.diffusion.generation import SamplerSettings, generate
from dpdm_cli.errors import InterruptedRunError
from dpdm_cli.reporter import Reporter
from dpdm_cli.sampling.sample_metadata import Digests
from dpdm_cli.sampling.sample_set import SampleSet
from dpdm_cli.signals import StopRequest, stop_requests

_LESS_MEMORY = "choose a smaller --batch-size, in another folder: images differ by rounding"


@dataclass(frozen=True)
class Drawing:
    """What determines the images, the processes that draw them, and the reporter.

    Attributes:
        model: on `device`.
        cycle: classes in turn, see `Album`.
        size: rows of a batch.
        processes: which share the batches. The first takes what all have drawn, and writes it.
    """

    model: Model
    cycle: tuple[int, ...]
    settings: SamplerSettings
    seed: int
    size: int
    device: torch.device
    processes: Processes
    reporter: Reporter

    def into(self, images: SampleSet) -> tuple[int, Digests]:
        """Complete a set.

        Returns:
            How many images were drawn for that, and the digests of what lies there.

        Raises:
            UsageError, DataError, DamagedFileError, ResourceError: see `SampleSet`.
            InterruptedRunError: on SIGINT or SIGTERM to any of the processes, when their batches are written.
        """
        first = self.processes.broadcast
        try:
            missing = first(images.begin)
            with stop_requests() as stop:
                drawn = self._fill(images, missing, stop)
                digests = Digests.from_json(first(images.seal))
        finally:
            images.close()
        return drawn, digests

    def _fill(self, images: SampleSet, missing: list[int], stop: StopRequest) -> int:
        """Rounds of one batch from each process; `missing` is the first missing image of each batch."""
        total, where = len(images.album.indices), images.path
        done = there = total - sum(len(images.missing(first)) for first in missing)
        if there and missing:
            self.reporter.note(f"continuing in {where}: {there:,} images are there")
        count = self.processes.size
        batches = parallel_map(
            self._draw, missing[self.processes.rank :: count], workers_on(self.device), threads=1
        )
        with closing(batches), self.reporter.progress("sampling", total, "images", there) as bar:
            for at in range(0, len(missing), count):
                firsts = missing[at : at + count]
                with self.processes.together(), memory_errors("while sampling", _LESS_MEMORY):
                    rows = next(batches, self._nothing())
                drawn = self.processes.gather(rows)
                self.processes.broadcast(partial(_put, images, firsts, drawn))
                kept = sum(len(images.missing(first)) for first in firsts)
                done += kept
                bar.advance(kept)
                (signal_number,) = self.processes.all_reduce_max(stop.signal_number)
                if signal_number and done < total:
                    self.processes.broadcast(images.flush)
                    raise InterruptedRunError(
                        f"interrupted: {done:,} of {total:,} images are in {where}",
                        "repeat the same command to continue",
                        signal_number,
                    )
        return done - there

    def _draw(self, first: int) -> Tensor:
        """The batch that holds an image. Always `size` rows, so that every image is computed in the same place of the
        same shape.
        """
        start = first - first % self.size
        indices = torch.arange(start, start + self.size, device=self.device)
        labels = None
        if self.cycle:
            cycle = torch.tensor(self.cycle, device=self.device)
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

    def _nothing(self) -> Tensor:
        """What a process without a batch in the last round hands over; it is ignored."""
        return torch.empty(self.size, *self.model.image_shape, dtype=torch.uint8)


def _put(images: SampleSet, firsts: list[int], drawn: Tensor | None) -> None:
    assert drawn is not None, "the first process gets what all have drawn"
    # In the last round there may be fewer batches than processes.
    images.put(zip(firsts, drawn.numpy(), strict=False))
