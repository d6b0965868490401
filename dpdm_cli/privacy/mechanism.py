"""Clip, sum, noise, divide and account, in one call. What leaves it may be published.

The subsampled Gaussian mechanism of DP-SGD (Abadi et al. 2016, arXiv 1607.00133, Algorithm 1) with one gradient
for each image (DPDM, arXiv 2210.09929, Algorithm 1). Knows gradients and numbers; nothing of images or networks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

import torch
from torch import Tensor

from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.compute.threads import parallel_map
from dpdm_cli.privacy.entropy import Entropy, standard_normal
from dpdm_cli.privacy.ledger import Ledger

# Noise is added in float64 and the result rounded to this public grid (in units of sigma C), so that the low bits
# of the sum don't show through floating-point rounding (Mironov 2012). A mitigation, not a proof.
_GRID = 2.0**-20

# The norm is measured in floating point: the threshold is lowered by more than its rounding error.
NORM_SLACK = 1e-5
_NORM_PART = 1 << 11  # elements that are summed in float32


def clipped_sum(gradients: Tensor, clip_norm: float) -> Tensor:
    """Sum of per-example gradients, each scaled to norm at most `clip_norm`.

    Guarantee: adding or removing one example changes the sum by at most `clip_norm` in L2 norm, whatever its
    gradient. One that isn't finite, or whose norm overflows float32, contributes exactly zero.

    Args:
        gradients: [B, P], float32 or wider; may be overwritten. B may be 0.
        clip_norm: C > 0; the norm is taken over all P parameters together.

    Returns:
        [P], of the gradients' dtype.
    """
    factors = clip_factors(gradients, clip_norm)
    if gradients.device.type == "cpu":
        return torch.mv(gradients.T, factors)
    # No matrix product: elsewhere those may be told to round their factors to TF32 or bf16, and a gradient that is
    # rounded after its norm was measured may be longer than C.
    return gradients.mul_(factors[:, None]).sum(0)


def clip_factors(rows: Tensor, clip_norm: float) -> Tensor:
    """What each row of [B, P] is to be multiplied by, so that its norm is at most `clip_norm`: [B].

    Rows that aren't finite, or whose norm overflows float32, are overwritten with zeros and get a factor of 0.
    """
    if rows.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"rows to be clipped must be float32 or float64, not {rows.dtype}")
    norms = row_norms(rows)
    finite = norms.isfinite()
    # Zeroed before they are scaled: 0 * NaN is NaN. Elsewhere than on a CPU, asking whether there is any would wait for
    # the device.
    if rows.device.type != "cpu" or not finite.all():
        rows.masked_fill_(~finite[:, None], 0.0)
    scale = (clip_norm / (norms * (1.0 + NORM_SLACK))).clamp(max=1.0)
    return torch.where(finite, scale, 0.0)


def row_norms(gradients: Tensor) -> Tensor:
    """L2 norm of each row of [B, P], exact to 2 parts in 10^6 however long the row.

    Squares are summed in parts. In one go, those of millions of elements were measured to lose up to 9 parts in 10^5 in
    float32, and those of 2^14 equal elements, which round alike, 1.4 parts in 10^5: both more than the slack.
    """
    parts, rest = divmod(gradients.shape[1], _NORM_PART)
    whole = parts * _NORM_PART
    in_parts = gradients[:, :whole].view(gradients.shape[0], parts, _NORM_PART)
    norms = torch.linalg.vector_norm(in_parts, dim=2)
    if rest:
        last = torch.linalg.vector_norm(gradients[:, whole:], dim=1, keepdim=True)
        norms = torch.cat([norms, last], dim=1)
    in_all: Tensor = torch.linalg.vector_norm(norms, dim=1)
    return in_all


def with_noise(
    total: Tensor,
    scale: float,
    entropy: Entropy = os.urandom,
    workers: int = 1,
    processes: Processes = ALONE,
) -> Tensor:
    """The sum of `total` [P] float64 over all processes plus N(0, scale^2) on every coordinate, on the public grid.

    Noise is added once: each process adds it to the coordinates whose sum it has, and gives out what is noisy alone.
    """
    part = processes.part_of_sum(total)
    noise = torch.from_numpy(standard_normal(len(part), entropy, workers)).to(part.device)
    grid = scale * _GRID
    noisy = ((part + scale * noise) / grid).round() * grid
    return processes.whole(noisy, len(total))


class GaussianMechanism:
    """Turns per-example gradients into one that is safe to use.

    Guarantee: `privatize` is a Gaussian mechanism of sensitivity C and noise multiplier sigma under adding or
    removing one record, and each call is one line in the ledger: there is no noisy gradient without a line and no
    line without noise.

    Args:
        ledger: where releases are entered; its plan gives C, sigma and the public divisor.
        size: P, the number of parameters.
        device: where the sum is accumulated and the result returned.
        entropy: source of secret bytes.
        processes: that make each release together; every one of them has a ledger of the same plan.
    """

    def __init__(
        self,
        ledger: Ledger,
        size: int,
        device: torch.device,
        entropy: Entropy = os.urandom,
        processes: Processes = ALONE,
    ) -> None:
        self.plan = ledger.plan
        self._ledger = ledger
        self._size = size
        self._device = device
        self._wide = torch.device("cpu") if device.type == "mps" else device  # mps has no float64
        self._entropy = entropy
        self._processes = processes

    def privatize(
        self,
        pieces: Iterable[Any],
        gradients: Callable[[Any], AbstractContextManager[Tensor]] = nullcontext,
        workers: int = 1,
    ) -> Tensor:
        """One release: the noisy mean gradient of a batch.

        Args:
            pieces: micro-batches that together make this process's share of the logical batch. None at all is a legal
                share, and a legal batch, which gives noise alone.
            gradients: how a piece becomes per-example gradients [b, P], lent until they are summed; by default a piece
                is them.
            workers: pieces differentiated and clipped side by side, in threads.

        Returns:
            [P] float32: (sum of clipped gradients + sigma C N(0, I)) / divisor. The divisor is the expected batch
            size, never the actual one.

        Raises:
            PrivacyError: the plan's steps are spent.
        """
        plan = self.plan
        self._ledger.require_budget()

        def clipped(piece: Any) -> Tensor:
            with gradients(piece) as rows:
                return clipped_sum(rows, plan.clip_norm)

        total = torch.zeros(self._size, dtype=torch.float64, device=self._wide)
        with closing(parallel_map(clipped, pieces, workers)) as sums:
            for part in sums:
                total += part.to(total)
        scale = plan.sigma * plan.clip_norm
        noisy = with_noise(total, scale, self._entropy, workers, self._processes)
        self._ledger.record()
        return (noisy / plan.divisor).to(self._device, torch.float32)
