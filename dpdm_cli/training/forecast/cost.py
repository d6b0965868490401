"""What a run will take: minutes and memory, by its own code on grey rows. Nothing private is looked at.

Rows of the run's shape go through the run's own step, warm start and sampler, under a plan of their own. On a CPU what
is counted is its time for this process, not the clock's: others at work beside it shall not decide.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.compute.pixels import to_floats
from dpdm_cli.compute.threads import workers_on
from dpdm_cli.data import ImageSet
from dpdm_cli.diffusion.generation import SamplerSettings, generate
from dpdm_cli.privacy.gradients.tuning import Tuning
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.reporter import Reporter, SilentReporter
from dpdm_cli.sampling.grids import images_in_grid
from dpdm_cli.stored import Json
from dpdm_cli.training.config.run_spec import RunSpec
from dpdm_cli.training.trainer import Trainer

_STEPS = 1000  # of the grey run's own plan, never taken
_TIMED = 4  # steps
_SECONDS = 1.0  # that one of them is to take
_WARM_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run takes on a device, in seconds unless it says otherwise.

    Attributes:
        device: which, in words.
        warm_start, steps, previews, grid: the parts of the run after it is set up.
        thousand: for 1,000 images by the default sampler, after the run.
        memory: bytes at the most, the images included; None where it cannot be known.
        tuning: what was chosen for the step; None where the user chose.
    """

    device: str
    warm_start: float
    steps: float
    previews: float
    grid: float
    thousand: float
    memory: int | None
    tuning: Tuning | None

    @property
    def seconds(self) -> float:
        """Of the whole run after it is set up."""
        return self.warm_start + self.steps + self.previews + self.grid

    def to_dict(self) -> Json:
        """For JSON."""
        names = ("warm_start", "steps", "previews", "grid", "thousand")
        return {
            "device": self.device,
            "minutes": round(self.seconds / 60, 2),
            "seconds": {name: round(getattr(self, name), 1) for name in names},
            "memory_bytes": self.memory,
        }

    def __str__(self) -> str:
        parts = {
            "warm start": self.warm_start,
            "steps": self.steps,
            "previews": self.previews,
            "its grid": self.grid,
        }
        of_that = ", ".join(f"{name} {duration(t)}" for name, t in parts.items() if t)
        memory = "" if self.memory is None else f"; memory {self.memory / 1e9:.2g} GB"
        return (
            f"about {duration(self.seconds)} on {self.device} ({of_that}), and {duration(self.thousand)} for each "
            f"1,000 images drawn from it{memory}; timed on grey rows"
        )


def measure(
    spec: RunSpec,
    device: torch.device,
    processes: Processes = ALONE,
    *,
    previews: int = 0,
    held: int = 0,
    reporter: Reporter | None = None,
) -> Cost:
    """Time the parts of a run, in a few seconds.

    Args:
        spec: the run.
        device, processes: that are to make it; each of the processes calls this.
        previews: grids drawn on the way.
        held: bytes of images that are not in memory yet and will be.
        reporter: gets the progress of the tuning.
    """
    reporter = reporter or SilentReporter()
    clock = _Clock(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def trainer(rows: int, micro_batch: int, *, is_warm: bool = False) -> Trainer:
        ledger = Ledger(replace(spec.plan, steps=_STEPS)) if spec.plan else None
        if ledger and is_warm:  # by a prior that knows nothing, which takes as long to use
            for _ in range(ledger.plan.warm_releases):
                ledger.record(warm=True)
        return Trainer(
            spec.network,
            replace(spec.settings, micro_batch=micro_batch),
            _grey(spec, rows),
            steps=_STEPS,
            sample_rate=spec.sample_rate,
            ledger=ledger,
            device=device,
            processes=processes,
            reporter=reporter,
        )

    # Next to nothing in a batch: what a step takes beside its images.
    empty = trainer(1, spec.settings.micro_batch)
    micro_batch = empty.tuning.micro_batch if empty.tuning else spec.settings.micro_batch
    once = clock.alone(empty.warm_up)
    empty.step()
    fixed = min(clock.alone(empty.step) for _ in range(_TIMED))

    # As much as takes a second, so that what a worker does once for its images is divided among as many.
    most = micro_batch * workers_on(device)
    images = most if empty.tuning is None else min(most, round(_SECONDS / empty.tuning.seconds))
    images = max(workers_on(device), images) * processes.size
    batch = spec.sample_rate * spec.dataset_size
    held_rows = max(1, round(min(images, batch) / spec.sample_rate))
    # What was measured may differ between processes, and all hold the same images.
    full = trainer(processes.broadcast(lambda: held_rows), micro_batch, is_warm=True)
    full.step()
    # The fastest: others at work, and memory that is touched for the first time, only ever add to it.
    image, anywhere = math.inf, 0
    while not anywhere:  # the batches of a short run may all be empty
        for _ in range(_TIMED):
            taken = clock.together(full.step) - clock.share * fixed
            if seen := full.images_seen:
                image, anywhere = min(image, max(0.0, taken) / seen), 1
        (anywhere,) = processes.all_reduce_max(anywhere)
    prior, warm_start = full.averaged.prior, 0.0
    if spec.plan is not None and prior is not None:
        grey = to_floats(_grey(spec, _WARM_ROWS).rows(torch.arange(_WARM_ROWS))).to(device)

        def over_rows() -> None:
            rows = prior.low.coefficients(grey)
            rows.T @ rows

        over_rows()
        passes = spec.plan.warm_releases * spec.dataset_size / processes.size / _WARM_ROWS
        warm_start = once + passes * clock.together(over_rows)
    # A process that drew nothing tells nobody.
    of_images = batch / processes.size * image if image < math.inf else 0.0

    sampler = SamplerSettings.default(has_prior=prior is not None)
    short = replace(sampler, steps=2)
    count = images_in_grid(spec.network.classes)
    indices = torch.arange(count, device=device)
    shape = (spec.network.image_channels, spec.network.image_size, spec.network.image_size)
    labels = torch.zeros_like(indices) if spec.network.classes else None

    def draw() -> None:
        generate(full.averaged, indices, labels, shape, short, seed=0)

    as_many = sampler.evaluations / short.evaluations
    grid = clock.together(draw) * as_many
    image_again = clock.together(draw) * as_many / count  # without what is set up once
    return Cost(
        device=_words(device, processes),
        warm_start=warm_start,
        steps=spec.steps * (fixed + of_images),
        previews=previews * grid,
        grid=grid,
        thousand=1000 / processes.size * image_again,
        memory=_peak(device, held),
        tuning=empty.tuning,
    )


class _Clock:
    """Seconds that work would take a device that has nothing else to do.

    Args:
        device: where it is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.share = 1 / torch.get_num_threads() if device.type == "cpu" else 1.0

    def alone(self, work: Callable[[], object]) -> float:
        """Of work that is mostly done by one core."""
        return min(self._time(work))

    def together(self, work: Callable[[], object]) -> float:
        """Of work that all cores share."""
        return self._time(work)[0] * self.share

    def _time(self, work: Callable[[], object]) -> tuple[float, float]:
        """On a CPU of this process, and by the clock; threads that wait for each other use up the first."""
        now = time.process_time if self._device.type == "cpu" else time.perf_counter
        self._wait()
        start, by_clock = now(), time.perf_counter()
        work()
        self._wait()
        return now() - start, time.perf_counter() - by_clock

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()


def duration(seconds: float) -> str:
    """Two significant digits and a unit."""
    for unit, length in (("days", 86_400.0), ("hours", 3_600.0), ("min", 60.0)):
        if seconds >= 1.5 * length:
            return f"{float(f'{seconds / length:.1e}'):,g} {unit}"
    return f"{max(1.0, float(f'{seconds:.1e}')):,.0f} s"


def _grey(spec: RunSpec, rows: int) -> ImageSet:
    """Grey images of the run's shape, each of a person of its own; however many there are, one is held."""
    network = spec.network
    shape = rows, network.image_channels, network.image_size, network.image_size
    classes = tuple(str(label) for label in range(network.classes))
    return ImageSet(
        name="grey rows",
        images=torch.full((1, 1, 1, 1), 127, dtype=torch.uint8).expand(shape),
        labels=torch.zeros(1, dtype=torch.int64).expand(rows) if classes else None,
        classes=classes,
        persons=torch.arange(rows),
    )


def _words(device: torch.device, processes: Processes) -> str:
    where = str(device)
    if device.type == "cpu":
        cores = torch.get_num_threads()
        where = f"{cores} core{'s' if cores > 1 else ''} that do nothing else"
    return where if processes.size == 1 else f"{processes.size} processes, each on {where}"


def _peak(device: torch.device, held: int) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) + held
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) + held
