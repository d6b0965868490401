"""Impostors of noise and of batches, each put into the real code as a monkeypatch, and the check that has to notice."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dpdm_cli.privacy import noise as noise_module
from dpdm_cli.privacy import step
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.poisson import PoissonSampler
from dpdm_cli.privacy.step import PrivateStep

Patch = pytest.MonkeyPatch
Break = Callable[[Patch], None]

real_draw = PoissonSampler.draw
real_noise = noise_module.with_noise


def noise(change: Callable[[np.ndarray], np.ndarray]) -> Break:
    real = noise_module.standard_normal

    def break_it(patch: Patch) -> None:
        patch.setattr(noise_module, "standard_normal", lambda *a: change(real(*a)))

    return break_it


def batches(changed: Callable[[PoissonSampler, int], Tensor]) -> Break:
    return lambda patch: patch.setattr(PoissonSampler, "draw", changed)


def _instead(draw: Callable[[int], np.ndarray]) -> Break:
    """Noise from another source, of mean 0 and variance 1."""
    return lambda patch: patch.setattr(noise_module, "standard_normal", lambda n, *_: draw(n))


def _from_bytes(draw: Callable[[int], np.ndarray]) -> Break:
    """The same, which asks for as many secret bytes as it ought to."""
    return lambda patch: patch.setattr(
        noise_module, "standard_normal", lambda n, entropy, *_: (entropy(8 * n), draw(n))[1]
    )


def _any() -> np.random.Generator:
    return np.random.default_rng()


def _cut_off(n: int) -> np.ndarray:
    """Normal within 3 standard deviations, and stretched to variance 1."""
    noise = _any().standard_normal(n)
    while (far := abs(noise) > 3).any():
        noise[far] = _any().standard_normal(far.sum())
    return noise / 0.97333**0.5


def _signs_of_pairs(noise: np.ndarray) -> np.ndarray:
    """The second of each pair is the first, or its opposite: they are not correlated."""
    sizes = np.resize(noise[: -(-len(noise) // 2)], len(noise))
    return sizes * _any().choice([-1.0, 1.0], len(noise))


def _few_in_a_row_again(noise: np.ndarray) -> np.ndarray:
    noise = noise.copy()
    noise[7777:7781] = -noise[33:37]
    return noise


def _seeded(bits: int) -> Callable[[int], np.ndarray]:
    return lambda n: np.random.default_rng(
        int.from_bytes(os.urandom(8), "little") >> (64 - bits)
    ).standard_normal(n)


def _pool(size: int) -> Break:
    def break_it(patch: Patch) -> None:
        numbers = _any().standard_normal(size)
        numbers = (numbers - numbers.mean()) / numbers.std()
        _from_bytes(lambda n: _any().choice(numbers, n))(patch)

    return break_it


def _without_grid(patch: Patch) -> None:
    def with_noise(total: Tensor, scale: float, entropy: Any, workers: int, _: Any) -> Tensor:
        return total + scale * torch.from_numpy(
            noise_module.standard_normal(len(total), entropy, workers)
        )

    patch.setattr(step, "with_noise", with_noise)


def _noise_alone_on_grid(patch: Patch) -> None:
    def with_noise(total: Tensor, *rest: Any) -> Tensor:
        return total + real_noise(torch.zeros_like(total), *rest)

    patch.setattr(step, "with_noise", with_noise)


def _rate_of_those_held(patch: Patch) -> None:
    real = PrivateStep.__init__

    def init(self: PrivateStep, network: Any, ledger: Ledger, *, records: int, **rest: Any) -> None:
        real(self, network, ledger, records=records, **rest)
        most = max(records, round(ledger.plan.expected_batch_size))
        self._sampler = PoissonSampler(replace(ledger.plan, dataset_size=most))

    patch.setattr(PrivateStep, "__init__", init)


def _changed(change: Callable[[Tensor, int], Tensor]) -> Break:
    """Each batch drawn rightly, then changed."""
    return batches(lambda self, records: change(real_draw(self, records), records))


def _never_together(self: PoissonSampler, records: int) -> Tensor:
    """Every record at the right rate, but never 2i and 2i + 1 at once."""
    chance = torch.from_numpy(_any().random(-(-records // 2)))
    first, second = chance < self._rate, chance >= 1 - self._rate
    return torch.stack([first, second], 1).flatten()[:records].nonzero().flatten()


def _two_apart(self: PoissonSampler, records: int) -> Tensor:
    """Of all pairs only records 3 and 50 are never drawn together."""
    batch = real_draw(self, records)
    if 3 in batch and 50 in batch:
        batch = batch[batch != (3 if torch.rand(()) < 0.5 else 50)]
    return batch


def _steps_again(self: PoissonSampler, records: int) -> Tensor:
    """Batches are drawn for a round of 150 steps, then come again."""
    drawn = self.__dict__.setdefault("drawn", [])
    if len(drawn) < 150:
        drawn.append(real_draw(self, records))
        return drawn[-1]
    drawn.append(drawn[-150])
    return drawn[-1]


def _micro_batches_overlap(patch: Patch) -> None:
    real = step.micro_batches

    def overlapping(batch: Tensor, *rest: int) -> Any:
        found = real(batch, *rest)
        return [*found, found[-1][-1:]] if len(found) > 1 else found

    patch.setattr(step, "micro_batches", overlapping)


NOISE: dict[str, tuple[Break, str]] = {
    "plus or minus sigma C": (
        _from_bytes(lambda n: _any().choice([-1.0, 1.0], n)),
        "noise, distribution",
    ),
    "uniform noise": (
        _from_bytes(lambda n: _any().uniform(-(3**0.5), 3**0.5, n)),
        "noise, distribution",
    ),
    "noise cut off at 3 sigma C": (_from_bytes(_cut_off), "noise, tails"),
    "both halves the same noise": (
        noise(lambda z: np.resize(z[: -(-len(z) // 2)], len(z))),
        "noise, lags",
    ),
    "one number for each pair": (noise(lambda z: np.repeat(z[::2], 2)[: len(z)]), "noise, lags"),
    "one number for each pair, signs apart": (noise(_signs_of_pairs), "noise, lags"),
    "four numbers again": (noise(_few_in_a_row_again), "noise, repeated segments"),
    "noise from a pool of 65,536": (_pool(1 << 16), "noise, repeated numbers"),
    "noise from a pool of a million": (_pool(1_000_000), "noise, repeated numbers"),
    "noise from a 16-bit seed": (_from_bytes(_seeded(16)), "noise, short releases"),
    "noise from a 63-bit seed": (_instead(_seeded(63)), "noise, secret bytes"),
    "no public grid": (_without_grid, "noise, public grid"),
    "noise alone on the grid": (_noise_alone_on_grid, "noise, public grid"),
}

SAMPLER: dict[str, tuple[Break, str]] = {
    "batches come again after 150 steps": (batches(_steps_again), "sampler, from one step"),
    "q = B / records held": (_rate_of_those_held, "sampler, many"),
    "records counted twice": (
        _changed(lambda batch, _: torch.cat([batch, batch[:1]])),
        "sampler, no record twice",
    ),
    "a record in two micro-batches": (_micro_batches_overlap, "sampler, no record twice"),
    "pairs never together": (batches(_never_together), "sampler, between records"),
    "two records never together": (batches(_two_apart), "sampler, each pair"),
    "batches cut at 24": (_changed(lambda batch, _: batch[:24]), "sampler, many"),
    "batches cut at their mean": (_changed(lambda batch, n: batch[: n // 4]), "sampler, sizes"),
    "first record never drawn": (
        _changed(lambda batch, _: batch[batch > 0]),
        "sampler, each record",
    ),
    "last record never drawn": (
        _changed(lambda batch, n: batch[batch < n - 1]),
        "sampler, each record",
    ),
    "first record always drawn": (
        _changed(lambda batch, _: torch.cat([torch.zeros(1, dtype=torch.int64), batch[batch > 0]])),
        "sampler, each record",
    ),
}
"""Name, how to break the code, and the start of the name of the check that must fail."""
