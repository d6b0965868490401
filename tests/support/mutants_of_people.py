"""Ways to protect less than a person, each put into the real code, and the check that has to notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from dpdm_cli.diffusion.keyed_noise import KeyedNoise
from dpdm_cli.privacy import class_sums, step
from dpdm_cli.training.records import People

Patch = pytest.MonkeyPatch


def _once_for_each_image(patch: Patch) -> None:
    """A person that is drawn is differentiated and clipped as often as they have images."""
    seen: list[Tensor] = []
    real_init, real_batches = People.__init__, step.micro_batches

    def init(self: People, persons: Tensor) -> None:
        real_init(self, persons)
        seen.append(self.images_of)

    def batches(batch: Tensor, *args: Any) -> Any:
        if len(batch) and batch.max() < len(seen[-1]):
            batch = batch.repeat_interleave(seen[-1][batch])
        return real_batches(batch, *args)

    patch.setattr(People, "__init__", init)
    patch.setattr(step, "micro_batches", batches)


def _chosen_by_place_in_the_batch(patch: Patch) -> None:
    real = KeyedNoise.below

    def below(self: KeyedNoise, limits: Tensor, count: int) -> Tensor:
        return (real(self, limits, count) + torch.arange(len(limits))[:, None]) % limits[:, None]

    patch.setattr(KeyedNoise, "below", below)


def _shares(changed: Callable[[Tensor], Tensor]) -> Callable[[Patch], None]:
    real = class_sums._shared

    def shared(*args: Any) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for rows, labels, shares in real(*args):
            yield rows, labels, changed(shares)

    return lambda patch: patch.setattr(class_sums, "_shared", shared)


PEOPLE: dict[str, tuple[Callable[[Patch], None], str]] = {
    "a person counts once for each image": (_once_for_each_image, "sensitivity, two-image"),
    "images chosen by place in the batch": (
        _chosen_by_place_in_the_batch,
        "sensitivity, one-image",
    ),
    "every image counts whole in class sums": (
        _shares(torch.ones_like),
        "warm start, sums, two-image",
    ),
    "every image counts whole in class squares": (
        _shares(torch.ones_like),
        "warm start, squares, fifty-image",
    ),
    "images count by the root of their number": (
        _shares(torch.sqrt),
        "warm start, sums, fifty-image",
    ),
    "images count a tenth too much": (_shares(lambda s: 1.1 * s), "warm start, sums, fifty-image"),
}
