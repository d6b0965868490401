"""The lowest spatial frequencies of an image: few numbers that hold most of what one class has in common.

An orthonormal cosine basis (the DCT-II of JPEG) over rows, columns and colours, cut off at a public frequency. It
depends on the images' shape and on nothing in them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LARGEST_BASIS = 1 << 28  # numbers: 1 GiB


class LowFrequencies(nn.Module):
    """Images as coefficients of their lowest frequencies, and back.

    Args:
        shape: (C, H, W) of an image.
        most: coefficients kept, at most; fewer when an image has no more pixels.

    Raises:
        ValueError: the basis is larger than any that is used.
    """

    _basis: Tensor

    def __init__(self, shape: tuple[int, int, int], most: int) -> None:
        super().__init__()
        self.shape = shape
        channels, height, width = shape
        if most * math.prod(shape) > LARGEST_BASIS:
            raise ValueError(
                f"{most} frequencies of {height}x{width}x{channels} pixels are more than are kept in memory"
            )
        # Colour counts as twice the frequency, as in JPEG: it changes more slowly than brightness. A frequency of
        # `most` or more has as many below it.
        rows, columns = range(min(height, most)), range(min(width, most))
        order = sorted(
            ((c, i, j) for c in range(channels) for i in rows for j in columns),
            key=lambda f: ((f[1] ** 2 + f[2] ** 2) * (4 if f[0] else 1), f),
        )[:most]
        over_colour, over_rows, over_columns = (_cosines(length) for length in shape)
        basis = torch.empty(len(order), math.prod(shape), dtype=torch.float32)
        for wave, (c, i, j) in zip(basis, order, strict=True):
            wave.copy_(
                torch.einsum("c,h,w->chw", over_colour[c], over_rows[i], over_columns[j]).flatten()
            )
        self.register_buffer("_basis", basis, persistent=False)

    @property
    def size(self) -> int:
        """Number of coefficients, d."""
        return len(self._basis)

    def coefficients(self, images: Tensor) -> Tensor:
        """Of images [B, C, H, W]: [B, d]. Norms don't grow."""
        return images.flatten(1) @ self._basis.T

    def images(self, coefficients: Tensor) -> Tensor:
        """The images [B, C, H, W] that have these coefficients [B, d] and nothing above their frequencies."""
        return (coefficients @ self._basis).view(-1, *self.shape)


def _cosines(length: int) -> Tensor:
    """The orthonormal DCT-II: [frequency, place]."""
    place = torch.arange(length, dtype=torch.float64)
    waves = torch.cos(math.pi / length * (place + 0.5) * place[:, None]) * math.sqrt(2 / length)
    waves[0] /= math.sqrt(2)
    return waves
