"""Noise that belongs to an image: a function of (seed, key of the image, draw) and of nothing else.

Counter-based, so that an image gets the same noise in every batch, order and process, and a whole
batch is drawn at once on its device. In training this makes one image's gradient independent of the images beside it,
provided that the seed is secret (`privacy/entropy.py`): an image's draws are then as good as independent of all others'
whatever its key. If the seed were known, removing an image of a folder would renumber those after it and change
their gradients too. Noise that is added to protect privacy does not come from here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Constants of the SplitMix64 generator (Steele, Lea and Flood, OOPSLA 2014), as signed 64-bit integers.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


class KeyedNoise:
    """Random draws for given images.

    Args:
        seed: any integers, such as (seed, step).
        keys: one key for each image, int64 [R]; the draws follow its device.
    """

    def __init__(self, seed: tuple[int, ...], keys: Tensor) -> None:
        self._draws = 0
        stream = torch.zeros(1, dtype=torch.int64, device=keys.device)
        for part in seed:
            stream = _mix(stream + part % (1 << 63)) + _GOLDEN
        self._keys = _mix(stream + keys * _MIX_1)[:, None]

    def uniform(self, *shape: int) -> Tensor:
        """The next draw from U(0, 1), float32 [R, *shape]; never 0 or 1."""
        self._draws += 1
        count = math.prod(shape)
        counters = torch.arange(1, count + 1, device=self._keys.device) * _GOLDEN
        words = _mix(_mix(self._keys + self._draws) + counters)
        # 23 bits and the half step are what float32 holds without rounding; the half step keeps 0
        # and 1 out, and logarithms finite.
        uniform = ((words >> 41) & 0x7FFFFF).float().add_(0.5).mul_(2.0**-23)
        return uniform.view(-1, *shape)

    def below(self, limits: Tensor, count: int) -> Tensor:
        """The next draw of `count` whole numbers for each key from 0 to its limit - 1, int64 [R, count].

        Each has probability 1 / limit, to a part in 2^31 / limit.

        Args:
            limits: int64 [R], from 1 to 2^31.
        """
        self._draws += 1
        counters = torch.arange(1, count + 1, device=self._keys.device) * _GOLDEN
        words = _mix(_mix(self._keys + self._draws) + counters)
        return _shift(_shift(words, 33) * limits[:, None], 31)

    def normal(self, *shape: int) -> Tensor:
        """The next draw from N(0, 1), float32 [R, *shape], by the Box-Muller transform."""
        count = math.prod(shape)
        first, second = self.uniform(2 * math.ceil(count / 2)).chunk(2, dim=1)
        radius, angle = first.log().mul_(-2).sqrt_(), second * (2 * math.pi)
        pairs = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
        return pairs[:, :count].view(-1, *shape)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of a signed integer."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
