"""Ways to lose the guarantee, each put into the real code as a monkeypatch, and the check that has to notice.

None of them is a switch in the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dpdm_cli.diffusion.keyed_noise import KeyedNoise
from dpdm_cli.diffusion.loss import denoising_losses
from dpdm_cli.diffusion.unet import UNet
from dpdm_cli.privacy import class_sums, clipping, noise, step
from dpdm_cli.privacy.audit import canaries, step_checks
from dpdm_cli.privacy.audit.tensor_records import TensorRecords
from dpdm_cli.privacy.gradients.per_example import Losses, PerExampleGradients
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.poisson import PoissonSampler
from dpdm_cli.privacy.step import PrivateStep
from dpdm_cli.training.probe_records import ProbeRecords
from support import tiny
from support.mutants_of_draws import NOISE, SAMPLER, real_draw
from support.mutants_of_draws import batches as _draw
from support.mutants_of_draws import noise as _noise

COPIES = 4

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutant:
    """How to break the code, the check that must fail (the start of its name), and whether canaries must too."""

    break_it: Callable[[Patch], None]
    detector: str
    canaries: bool = False


def _clip(changed: Callable[[Tensor, float], Tensor]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(step, "clipped_sum", changed)


real_clip = clipping.clipped_sum


def _noise_reused(patch: Patch) -> None:
    real, kept = noise.standard_normal, {}
    patch.setattr(noise, "standard_normal", lambda n, *a: kept.setdefault(n, real(n, *a)).copy())


def _tensors() -> dict[str, slice]:
    """Where each tensor of the tiny network lies in a flat gradient."""
    per_example = PerExampleGradients(tiny.denoiser().network)
    ends = np.cumsum([p.numel() for p in per_example.parameters]).tolist()
    return {
        name: slice(first, last)
        for name, first, last in zip(per_example.names, [0, *ends], ends, strict=False)
    }


TENSORS = _tensors()
LAYER = TENSORS["middle.0.block.conv1.weight"]
BIAS = TENSORS["down.1.block.conv1.bias"]
WEIGHT, ALIKE = (TENSORS[f"down.0.block.conv{number}.weight"] for number in (1, 2))
PART = slice(WEIGHT.start, WEIGHT.start + 9)  # what one of its outputs takes from one input


def _silent_layer(noise: np.ndarray) -> np.ndarray:
    noise = noise.copy()
    noise[LAYER] = 0.0
    return noise


def _each_part_clipped(gradients: Tensor, clip_norm: float) -> Tensor:
    return torch.cat([real_clip(part, clip_norm) for part in gradients.chunk(6, dim=1)])


def _one_part_unclipped(gradients: Tensor, clip_norm: float) -> Tensor:
    clipped = real_clip(gradients.clone(), clip_norm)
    clipped[LAYER] = gradients[:, LAYER].nan_to_num().sum(0)
    return clipped


def _clip_lets_nan_through(gradients: Tensor, clip_norm: float) -> Tensor:
    norms = gradients.norm(dim=1)
    return (clip_norm / norms).clamp(max=1.0) @ gradients


def _clip_by(norms_of: Callable[[Tensor], Tensor]) -> Callable[[Patch], None]:
    """Records scaled by other norms than their own."""

    def changed(gradients: Tensor, clip_norm: float) -> Tensor:
        gradients.nan_to_num_(0.0, 0.0, 0.0)
        return (clip_norm / norms_of(gradients)).clamp(max=1.0) @ gradients

    return _clip(changed)


def _norms_without(hidden: slice) -> Callable[[Tensor], Tensor]:
    def norms(gradients: Tensor) -> Tensor:
        return (gradients.norm(dim=1) ** 2 - gradients[:, hidden].norm(dim=1) ** 2).clamp(0).sqrt()

    return norms


def _norms_with_a_tensor_twice(gradients: Tensor) -> Tensor:
    return torch.cat([gradients, gradients[:, WEIGHT]], dim=1).norm(dim=1)


def _largest_norm_of_a_tensor(gradients: Tensor) -> Tensor:
    parts = [gradients[:, where].norm(dim=1) for where in TENSORS.values()]
    return torch.stack(parts).amax(0)


def _a_tensor_clipped_alone(gradients: Tensor, clip_norm: float) -> Tensor:
    alone = real_clip(gradients[:, BIAS].clone(), clip_norm)
    gradients[:, BIAS] = 0.0
    total = real_clip(gradients, clip_norm)
    total[BIAS] = alone
    return total


def _tensors_swapped(gradients: Tensor, clip_norm: float) -> Tensor:
    total = real_clip(gradients, clip_norm)
    total[WEIGHT], total[ALIKE] = total[ALIKE].clone(), total[WEIGHT].clone()
    return total


def _micro_batch_clipped_as_one(gradients: Tensor, clip_norm: float) -> Tensor:
    total = gradients.nan_to_num(0.0, 0.0, 0.0).sum(0, keepdim=True)
    return real_clip(total, clip_norm)


def _sum_in_bfloat16(gradients: Tensor, clip_norm: float) -> Tensor:
    norms = gradients.norm(dim=1).clamp(min=clip_norm)
    total = torch.zeros(gradients.shape[1], dtype=torch.bfloat16)
    for row in (gradients * (clip_norm / norms)[:, None]).nan_to_num():
        total += row.bfloat16()
    return total.float()


def _copies_clipped_one_by_one(patch: Patch) -> None:
    """Every noisy copy counts as an example: clipped alone, then summed over the copies."""
    of_examples = PerExampleGradients.__call__

    def of_copies(
        self: PerExampleGradients, losses: Any, indices: Tensor, out: Tensor | None = None
    ) -> Tensor:
        rows = of_examples(self, lambda _: losses(indices), indices.repeat_interleave(COPIES))
        rows = rows.nan_to_num(0.0, 0.0, 0.0)
        rows *= (1.0 / rows.norm(dim=1)).clamp(max=1.0)[:, None]
        return rows.view(len(indices), COPIES, -1).sum(1)

    def probe_losses(self: ProbeRecords, indices: Tensor) -> Tensor:
        keys = (indices[:, None] * COPIES + torch.arange(COPIES)).flatten()
        labels = self._labels[indices].repeat_interleave(COPIES)
        images = self._images[indices].repeat_interleave(COPIES, 0)
        values = denoising_losses(self._denoiser, images, labels, 1, KeyedNoise((1,), keys))
        return values * self._weights[indices].repeat_interleave(COPIES)

    def step_on_copies(*args: Any) -> tuple[PrivateStep, Losses]:
        made, losses = real_step_on(*args)
        return made, lambda indices: losses(indices.repeat_interleave(COPIES))

    real = canaries.Canaries.losses
    real_known = TensorRecords.losses
    real_step_on = step_checks.step_on
    patch.setattr(
        TensorRecords,
        "losses",
        lambda self, indices: real_known(self, indices.repeat_interleave(COPIES)),
    )
    patch.setattr(PerExampleGradients, "__call__", of_copies)
    patch.setattr(step_checks, "step_on", step_on_copies)
    patch.setattr(step, "clipped_sum", lambda rows, clip_norm: rows.sum(0))
    patch.setattr(ProbeRecords, "losses", probe_losses)
    patch.setattr(
        canaries.Canaries,
        "losses",
        lambda self, indices, copies: real(self, indices.repeat_interleave(copies), 1),
    )


def _batch_coupled(patch: Patch) -> None:
    real = UNet.forward

    def forward(self: UNet, x: Tensor, *rest: Any) -> Tensor:
        return real(self, x + 0.5 * x.nan_to_num().mean(0, keepdim=True), *rest)

    patch.setattr(UNet, "forward", forward)


def _divided_by_the_batch(patch: Patch) -> None:
    real = PrivateStep.__call__

    def call(self: PrivateStep, losses: Any) -> None:
        sizes = []
        draw = self._sampler.draw
        self._sampler.draw = lambda n: sizes.append(draw(n)) or sizes[-1]
        real(self, losses)
        for parameter in self.per_example.parameters:
            parameter.grad *= self.ledger.plan.divisor / max(1, len(sizes[-1]))

    patch.setattr(PrivateStep, "__call__", call)


def _higher_rate(patch: Patch) -> None:
    real = PoissonSampler.__init__

    def init(self: PoissonSampler, *a: Any) -> None:
        real(self, *a)
        self._rate = min(1.0, 1.5 * self._rate)

    patch.setattr(PoissonSampler, "__init__", init)


def _shuffled(self: PoissonSampler, records: int) -> Tensor:
    size = max(1, round(self._rate * records))
    queue = getattr(self, "queue", torch.zeros(0, dtype=torch.int64))
    if len(queue) < size:
        queue = torch.randperm(records)
    self.queue = queue[size:]
    return queue[:size].sort().values


def _fixed_size(self: PoissonSampler, records: int) -> Tensor:
    return torch.randperm(records)[: max(1, round(self._rate * records))].sort().values


def _never_empty(self: PoissonSampler, records: int) -> Tensor:
    while not len(batch := real_draw(self, records)):
        pass
    return batch


def _same_seed(self: PoissonSampler, records: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.nonzero(torch.rand(records, generator=generator) < self._rate).flatten()


real_factors = clipping.clip_factors
real_noise = noise.with_noise
real_record = Ledger.record


def _class_sums(name: str, changed: Callable[..., Tensor]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(class_sums, name, changed)


def _no_factors(rows: Tensor, norm: float) -> Tensor:
    rows.nan_to_num_()
    return torch.ones(len(rows))


def _no_warm_line(patch: Patch) -> None:
    def record(self: Ledger, *, warm: bool = False) -> None:
        if not warm:
            real_record(self)

    patch.setattr(Ledger, "record", record)


MUTANTS: dict[str, Mutant] = {
    "noise x 0.97": Mutant(_noise(lambda z: 0.97 * z), "noise, all"),
    "noise x 0.9": Mutant(_noise(lambda z: 0.9 * z), "noise, all"),
    "noise / sqrt 2": Mutant(_noise(lambda z: z / 2**0.5), "noise, all", canaries=True),
    "no noise": Mutant(_noise(np.zeros_like), "noise, all", canaries=True),
    "noise divided twice": Mutant(_noise(lambda z: z / 16), "noise, all", canaries=True),
    "a layer without noise": Mutant(_noise(_silent_layer), "noise, each tensor", canaries=True),
    "noise reused": Mutant(_noise_reused, "noise, never twice"),
    **{name: Mutant(*mutant) for name, mutant in NOISE.items()},
    "clip at 1.1 C": Mutant(_clip(lambda g, c: real_clip(g, 1.1 * c)), "sensitivity, huge"),
    "each layer clipped alone": Mutant(_clip(_each_part_clipped), "sensitivity, huge"),
    "a tensor left out of the norm": Mutant(
        _clip_by(_norms_without(BIAS)), "sensitivity, each tensor"
    ),
    "9 of a tensor's 576 elements left out of the norm": Mutant(
        _clip_by(_norms_without(PART)), "sensitivity, each tensor"
    ),
    "a tensor counted twice in the norm": Mutant(
        _clip_by(_norms_with_a_tensor_twice), "sensitivity, each tensor"
    ),
    "a tensor clipped alone": Mutant(_clip(_a_tensor_clipped_alone), "sensitivity, all tensors"),
    "clipped by the largest norm of a tensor": Mutant(
        _clip_by(_largest_norm_of_a_tensor), "sensitivity, all tensors"
    ),
    "two tensors swapped": Mutant(_clip(_tensors_swapped), "sensitivity, each tensor"),
    "a micro-batch clipped as one": Mutant(
        _clip(_micro_batch_clipped_as_one), "sensitivity, each tensor"
    ),
    "a layer unclipped": Mutant(_clip(_one_part_unclipped), "sensitivity, huge", canaries=True),
    "no clip": Mutant(
        _clip(lambda g, c: g.nan_to_num().sum(0)), "sensitivity, huge", canaries=True
    ),
    "not a number passes the clip": Mutant(
        _clip(_clip_lets_nan_through), "sensitivity, not a number"
    ),
    "copies clipped one by one": Mutant(
        _copies_clipped_one_by_one, "sensitivity, huge", canaries=True
    ),
    "summed in bfloat16": Mutant(_clip(_sum_in_bfloat16), "precision"),
    "batch coupled": Mutant(_batch_coupled, "sensitivity, infinite"),
    "divided by the batch drawn": Mutant(_divided_by_the_batch, "noise, all"),
    "no line in the ledger": Mutant(
        lambda patch: patch.setattr(Ledger, "record", lambda self, **_: None), "ledger"
    ),
    "q x 1.5": Mutant(_higher_rate, "sampler, rate"),
    "shuffled batches": Mutant(_draw(_shuffled), "sampler, sizes"),
    "batches of fixed size": Mutant(_draw(_fixed_size), "sampler, sizes"),
    "empty batches skipped": Mutant(_draw(_never_empty), "sampler, empty"),
    "the same seed each step": Mutant(_draw(_same_seed), "sampler, from one step"),
    **{name: Mutant(*mutant) for name, mutant in SAMPLER.items()},
    "class sums unclipped": Mutant(
        _class_sums("clip_factors", _no_factors), "warm start, sums, huge"
    ),
    "class squares unclipped": Mutant(
        _class_sums("clip_factors", _no_factors), "warm start, squares, huge"
    ),
    "class sums clipped at 1.1": Mutant(
        _class_sums("clip_factors", lambda rows, norm: real_factors(rows, 1.1 * norm)),
        "warm start, sums, huge",
    ),
    "class sums without noise": Mutant(
        _class_sums("with_noise", lambda total, *_, **__: total), "warm start, sums, noise"
    ),
    "noise on class squares x 0.97": Mutant(
        _class_sums(
            "with_noise", lambda total, scale, *a, **k: real_noise(total, 0.97 * scale, *a, **k)
        ),
        "warm start, squares, noise",
    ),
    "no line for a class sum": Mutant(_no_warm_line, "warm start, sums, ledger"),
}
