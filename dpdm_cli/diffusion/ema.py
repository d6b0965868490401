"""Exponential moving average of the weights. Post-processing of released weights: it costs no privacy."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EMA:
    """Average with warm-up: the n-th update, counted from 1, has decay min(decay, (1 + n) / (10 + n)).

    So the first decay is 2/11. The rule is that of TensorFlow's `ExponentialMovingAverage`, counted as the code of
    score-based diffusion does (Song et al., arXiv 2011.13456), which DPDM (arXiv 2210.09929) takes over.

    Args:
        network: the network to follow; `averaged` starts as a copy of it.
        decay: in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.averaged = copy.deepcopy(network).requires_grad_(False).eval()
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, updates: int) -> None:
        """Move towards `network`; `updates` is the number of updates made before this one."""
        n = updates + 1
        decay = min(self._decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(
            list(self.averaged.parameters()), list(network.parameters()), 1 - decay
        )
