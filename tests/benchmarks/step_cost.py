"""What a private step costs beside an ordinary one: `python tests/benchmarks/step_cost.py --json`.

In one process and in turn: an ordinary step, this package's private step, Opacus' hooks and its functorch mode, on the
same network and the same rows; medians over turns of wall-clock times and of their ratios. Every variant ends with a
gradient of the mean loss in `.grad` (clipped and noised but for the ordinary one), before the optimizer. Both of this
package's steps may use all cores (workers side by side), each with the micro-batch that is fastest for it; Opacus has
what torch gives it, all rows at once. Peak memory is measured in a process of its own for each, with the private step's
micro-batch.

The rows are noise of MNIST's shape: nothing here depends on data.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpdm_cli.compute.device import resolve_device, to_device
from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.compute.group_norm import GroupNorm
from dpdm_cli.compute.threads import workers_on
from dpdm_cli.data import ImageSet
from dpdm_cli.diffusion.denoiser import PARAMETERISATIONS, Denoiser
from dpdm_cli.diffusion.keyed_noise import KeyedNoise
from dpdm_cli.diffusion.loss import denoising_losses
from dpdm_cli.diffusion.unet import UNet
from dpdm_cli.privacy.clipping import NORM_SLACK, clipped_sum
from dpdm_cli.privacy.gradients.per_example import PerExampleGradients
from dpdm_cli.privacy.gradients.tuning import tune
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.step import PrivateStep
from dpdm_cli.training.config.network import network_config
from dpdm_cli.training.config.settings import preset_settings
from dpdm_cli.training.plain_step import plain_step

CLIP = 1.0
# (network, batch, copies): 128 rows a step of the large network; up to the 256 of its preset for the small one.
CASES = (
    ("paper", 4, 32),
    ("paper", 16, 8),
    ("paper", 128, 1),
    ("small", 64, 4),
    ("small", 64, 2),
    ("small", 256, 1),
    ("small", 128, 1),
)
GPU_CASES = (("paper", 256, 32), ("paper", 1024, 8), ("paper", 4096, 1), ("small", 2048, 4))


class Case:
    """One network and batch, and the steps that are compared on it."""

    def __init__(
        self, net: str, batch: int, copies: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        torch.manual_seed(0)
        blank = ImageSet(
            name="mnist",
            images=torch.zeros(1, 1, 28, 28, dtype=torch.uint8),
            labels=torch.zeros(1, dtype=torch.int64),
            classes=tuple("0123456789"),
        )
        config = network_config(blank, preset_settings(net, "mnist", 10.0))
        self.net, self.batch, self.copies, self.device = net, batch, copies, device
        self.denoiser = Denoiser(
            to_device(UNet(config), device).to(dtype), PARAMETERISATIONS["edm"]
        )
        with torch.no_grad():  # layers that start at zero would hide an error
            for parameter in self.denoiser.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        self.images = torch.randn(batch, 1, 28, 28, device=device, dtype=dtype).clamp(-1, 1)
        self.labels = torch.arange(batch, device=device) % 10
        self.workers = workers_on(device)
        self.most = math.ceil(batch / self.workers)

    @property
    def network(self) -> nn.Module:
        return self.denoiser.network

    def losses(self, indices: Tensor) -> Tensor:
        noise = KeyedNoise((0,), indices)
        return denoising_losses(
            self.denoiser, self.images[indices], self.labels[indices], self.copies, noise
        )

    def plain(self, micro_batch: int) -> Callable[[], None]:
        everyone = torch.arange(self.batch, device=self.device)
        return lambda: plain_step(self.network, self.losses, everyone, micro_batch, self.workers)

    def tuned_plain(self) -> int:
        """The micro-batch with which the ordinary step is fastest."""
        sizes = [self.most]
        while sizes[-1] // 2 * self.copies >= 32:
            sizes.append(sizes[-1] // 2)
        steps = {size: self.plain(size) for size in sizes}
        times: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(3):
            for size, step in steps.items():
                times[size].append(seconds(step, self.device))
        return min(sizes, key=lambda size: min(times[size][1:]))

    def tuned_private(self) -> int:
        """Micro-batch and kernels as a run chooses them."""
        return tune(
            PerExampleGradients(self.network),
            self.losses,
            copies=self.copies,
            workers=self.workers,
            most=self.most,
        ).micro_batch

    def private(self, micro_batch: int, processes: Processes = ALONE) -> Callable[[], None]:
        """The private step on all rows, shared out among `processes`."""
        plan = PrivacyPlan(
            dataset_size=10 * self.batch,
            expected_batch_size=self.batch,
            steps=10**6,
            sigma=1.0,
            delta=1e-9,
            clip_norm=CLIP,
        )
        step = PrivateStep(
            self.network,
            Ledger(plan),
            records=self.batch,
            micro_batch=micro_batch,
            workers=self.workers,
            processes=processes,
        )
        everyone = torch.arange(self.batch)
        step._sampler.draw = lambda records: everyone  # the same rows for every variant
        return lambda: step(self.losses)

    def opacus(self, functorch: bool) -> Callable[[], None]:
        """Opacus' per-row gradients, averaged over the copies, clipped and noised by the rules of its optimizer."""
        from opacus.grad_sample import GradSampleModule

        norms = [module for module in self.network.modules() if isinstance(module, GroupNorm)]
        for norm in norms:  # it knows torch's own by its class
            norm.__class__ = nn.GroupNorm
        wrapped = GradSampleModule(
            self.network, loss_reduction="sum", force_functorch=functorch, strict=False
        )
        # Its hooks are wrong for inputs that are not contiguous.
        handles = [
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
            for module in self.network.modules()
            if isinstance(module, nn.Conv2d)
        ]
        everyone = torch.arange(self.batch, device=self.device)
        denoiser = Denoiser(wrapped, self.denoiser.parameterisation)

        def step() -> None:
            wrapped.zero_grad(set_to_none=True)
            noise = KeyedNoise((0,), everyone)
            losses = denoising_losses(denoiser, self.images, self.labels, self.copies, noise)
            losses.sum().backward()
            parameters = [p for p in wrapped.parameters() if p.grad_sample is not None]
            gradients = [p.grad_sample.view(self.batch, -1, *p.shape).sum(1) for p in parameters]
            norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients], 1).norm(dim=1)
            factors = (CLIP / (norms + 1e-6)).clamp(max=1.0)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                total = torch.einsum("b,b...->...", factors, gradient)
                parameter.grad = (total + CLIP * torch.randn_like(total)) / self.batch
                parameter.grad_sample = None

        def undo() -> None:
            for handle in handles:
                handle.remove()
            wrapped.to_standard_module()
            for norm in norms:
                norm.__class__ = GroupNorm

        step.undo = undo  # type: ignore[attr-defined]
        return step


def seconds(step: Callable[[], None], device: torch.device) -> float:
    synchronise(device)
    start = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def agreement(case: Case, examples: int = 4) -> tuple[float, float]:
    """Relative errors of a clipped sum in float32 against a float64 loop over examples: ours, and a float32 loop's.

    The sum as the mechanism defines it: an example is scaled to a norm that is below C by the clip's slack. What the
    loop errs by is the rounding of network and loss; the loss at the lowest noise levels is a small difference.
    """
    some = torch.arange(min(examples, case.batch), device=case.device)
    per_example = PerExampleGradients(case.network)
    norms = per_example(case.losses, some).norm(dim=1)
    clip = float(norms.median())  # so that some are clipped and some not
    per_example.assign(clipped_sum(per_example(case.losses, some), clip))
    found = torch.cat([p.grad.flatten() for p in case.network.parameters()]).double().cpu()
    by_loop = one_by_one(case, some, clip)
    single, state = case.denoiser, case.network.state_dict()
    images, labels = case.images, case.labels
    case.denoiser = Denoiser(UNet(case.network.config).double(), single.parameterisation)
    case.denoiser.network.load_state_dict(state)
    case.images, case.labels = images.double().cpu(), labels.cpu()
    expected = one_by_one(case, some.cpu(), clip)
    case.denoiser, case.images, case.labels = single, images, labels
    return tuple(float((f - expected).norm() / expected.norm()) for f in (found, by_loop))


def one_by_one(case: Case, some: Tensor, clip: float) -> Tensor:
    """The clipped sum by an ordinary backward pass for each example, added up in float64."""
    parameters = list(case.denoiser.network.parameters())
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    for record in some:
        gradient = torch.autograd.grad(case.losses(record[None]).sum(), parameters)
        flat = torch.cat([g.flatten() for g in gradient]).double().cpu()
        total += flat * min(1.0, clip / (float(flat.norm()) * (1 + NORM_SLACK)))
    return total


def compare(
    net: str, batch: int, copies: int, device: torch.device, repeats: int, functorch: bool
) -> dict[str, Any]:
    case = Case(net, batch, copies, device, torch.float32)
    micro = {"private": case.tuned_private(), "plain": case.tuned_plain()}
    ours, loops = agreement(case)
    row: dict[str, Any] = {
        "net": net,
        "device": device_name(device),
        "batch": batch,
        "copies": copies,
        "agreement": ours,
        "agreement_of_a_loop": loops,
        "micro_batch": micro,
    }
    times: dict[str, list[float]] = {}
    makers: dict[str, Callable[[], Callable[[], None]]] = {
        "plain": lambda: case.plain(micro["plain"]),
        "private": lambda: case.private(micro["private"]),
        "opacus_hooks": lambda: case.opacus(functorch=False),
    }
    if functorch:
        makers["opacus_functorch"] = lambda: case.opacus(functorch=True)
    for repeat in range(repeats + 1):
        for name, make in makers.items():
            step = make()
            taken = seconds(step, device)
            getattr(step, "undo", lambda: None)()
            if repeat:  # the first turn sets kernels up
                times.setdefault(name, []).append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    row |= {
        "private_over_plain": ratio(times["private"], times["plain"]),
        "opacus_over_private": ratio(times["opacus_hooks"], times["private"]),
        "peak_memory_over_plain": peak(case, "private", micro["private"])
        / peak(case, "plain", micro["private"]),
        "seconds": medians,
        "repeats": repeats,
    }
    return row


def ratio(above: list[float], below: list[float]) -> float:
    """Median of the ratios within each turn: what slows the machine for a while slows both."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def peak(case: Case, variant: str, micro_batch: int) -> float:
    """Bytes that a step takes beyond the network and the images, in a process of its own."""
    what = case.net, case.batch, case.copies, str(case.device), variant, micro_batch
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (*what, torch.get_num_threads()))


def _peak(
    net: str, batch: int, copies: int, device: str, variant: str, micro_batch: int, threads: int
) -> float:
    torch.set_num_threads(threads)
    where = torch.device(device)
    # Libraries and kernels are there before we count.
    Case(net, 2, 1, where, torch.float32).plain(2)()
    case = Case(net, batch, copies, where, torch.float32)
    step = case.private(micro_batch) if variant == "private" else case.plain(micro_batch)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
        before = torch.cuda.memory_allocated(where)
        step()
        return float(torch.cuda.max_memory_allocated(where) - before)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    step()
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    """Bytes of this process's memory, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--net", choices=("paper", "small"))
    parser.add_argument("--no-functorch", action="store_true", help="leave Opacus' functorch out")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = resolve_device(options.device)
    rows = []
    for net, batch, copies in CASES if device.type == "cpu" else GPU_CASES:
        if options.net in (None, net):
            rows.append(
                compare(net, batch, copies, device, options.repeats, not options.no_functorch)
            )
            if not options.json:
                row = rows[-1]
                print(
                    f"{net:5} B={batch:<4} K={copies:<2} private/plain {row['private_over_plain']:.2f}  "
                    f"opacus/private {row['opacus_over_private']:.2f}  "
                    f"memory {row['peak_memory_over_plain']:.2f}  error {row['agreement']:.1e}",
                    flush=True,
                )
    if options.json:
        print(json.dumps({"torch": torch.__version__, "cores": os.cpu_count(), "rows": rows}))


if __name__ == "__main__":
    sys.exit(main())
