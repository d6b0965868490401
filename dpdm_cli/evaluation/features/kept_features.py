"""A random sample of a stream of features, for measures that need the vectors themselves.

Knows feature vectors only.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST = 10_000
"""Vectors that are kept of one set. Distances of all pairs take four times as long for twice as many."""


class KeptFeatures:
    """Features of some images of a set, each set of `most` equally likely; of all where there are at most that many.

    Args:
        count: images in the set, N.
        most: kept at most.
        seed: which ones; the same choice of every set of N.

    Attributes:
        chosen: int64 [min(N, most)], indices of the images that are kept, ascending.
    """

    def __init__(self, count: int, most: int = MOST, seed: int = 0) -> None:
        self._places = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        self.chosen = (self._places < most).nonzero().flatten()
        self._rows: Tensor | None = None

    def take(self, indices: Tensor, features: Tensor) -> None:
        """Keep the chosen ones of features [B, D] of the images [B] with these indices; kept on the CPU."""
        if self._rows is None:
            shape = len(self.chosen), features.shape[1]
            self._rows = torch.empty(shape, dtype=features.dtype)
        places = self._places[indices]
        kept = places < len(self.chosen)
        self._rows[places[kept]] = features.detach().cpu()[kept]

    def rows(self) -> Tensor:
        """[min(N, most), D] in random order: the first n are a random choice of n. All chosen images were taken."""
        assert self._rows is not None
        return self._rows
