"""What the processes of a test do that audit the mechanism together, or a mutant of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dpdm_cli.compute.distributed import Processes
from dpdm_cli.compute.rendezvous import joined
from dpdm_cli.privacy import noise, step
from dpdm_cli.privacy.audit.checks import check_all
from dpdm_cli.privacy.audit.findings import Finding
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.poisson import PoissonSampler
from dpdm_cli.privacy.step import PrivateStep
from dpdm_cli.training.probe_records import ProbeRecords
from support import tiny
from support.process_children import CPU


def audited(mutant: str, warm_start: str = "none") -> list[Finding]:
    """The findings of the checks that a run makes before its first step, on a mechanism with a fault."""
    with joined(CPU) as processes:
        _MUTANTS[mutant](processes)
        denoiser, config = tiny.denoiser(), tiny.config()
        plan = tiny.plan(
            warm_start=warm_start, warm_sigma=None if warm_start == "none" else 2.0, sigma=0.8
        )
        probes = ProbeRecords(denoiser, config, plan.noise_multiplicity, 8)
        return check_all(
            denoiser.network,
            probes.losses,
            plan,
            records=probes.count,
            suspects=probes.suspects,
            micro_batch=3,
            processes=processes,
        )


def _noise_by_all(processes: Processes) -> None:
    """Every process adds all of the noise to its own sum."""

    def with_noise(total: Any, scale: float, entropy: Any, workers: int = 1, *_: Any) -> Any:
        noisy = total + scale * torch.from_numpy(np.random.default_rng().normal(size=len(total)))
        part = processes.reduce_scatter(noisy)
        return processes.all_gather(part).flatten()[: len(total)].double()

    step.with_noise = with_noise  # type: ignore[assignment]


def _mean_of_sums(processes: Processes) -> None:
    """What DistributedDataParallel does: the mean over the processes instead of the sum."""

    def with_noise(total: Any, scale: float, *args: Any) -> Any:
        part = processes.reduce_scatter(total).double() / processes.size
        noise = scale / processes.size * np.random.default_rng().normal(size=len(part))
        noisy = part + torch.from_numpy(noise)
        return processes.all_gather(noisy).flatten()[: len(total)].double()

    step.with_noise = with_noise  # type: ignore[assignment]


def _everyone_takes_the_batch(processes: Processes) -> None:
    """Every process differentiates the whole batch."""
    ordinary = processes.scatter_indices

    def share(draw: Callable[[], torch.Tensor]) -> torch.Tensor:
        ordinary(draw)
        return draw()

    processes.scatter_indices = share  # type: ignore[method-assign]


def _noise_from_a_seed(processes: Processes) -> None:
    """All processes draw from generators of one seed, so that the parts have the same noise."""
    random = np.random.default_rng(1)
    noise.standard_normal = lambda count, *_: random.standard_normal(count)


def _sums_in_float32(processes: Processes) -> None:
    ordinary = processes.reduce_scatter
    processes.reduce_scatter = lambda total: ordinary(total.float()).double()  # type: ignore[method-assign]


def _no_noise_beyond_the_first(processes: Processes) -> None:
    ordinary = noise.standard_normal
    noise.standard_normal = lambda count, *args: (
        ordinary(count, *args) * (1.0 if processes.is_first else 0.0)
    )


_MUTANTS: dict[str, Callable[[Processes], None]] = {
    "none": lambda processes: None,
    "noise by all": _noise_by_all,
    "mean of sums": _mean_of_sums,
    "everyone takes the batch": _everyone_takes_the_batch,
    "noise from a seed": _noise_from_a_seed,
    "no noise beyond the first": _no_noise_beyond_the_first,
    "sums in float32": _sums_in_float32,
}


def shares_of_masks(steps: int, records: int, rate: float) -> list[list[int]]:
    """What this process gets of the masks of so many steps."""
    plan = tiny.plan(dataset_size=records, expected_batch_size=rate * records)
    with joined(CPU) as processes:
        step = PrivateStep(
            torch.nn.Linear(1, 1), Ledger(plan), records=records, micro_batch=1, processes=processes
        )
        sampler = step._sampler
        assert isinstance(sampler, PoissonSampler)
        return [
            processes.scatter_indices(lambda: sampler.draw(records)).tolist() for _ in range(steps)
        ]
