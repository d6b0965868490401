"""Sums over all records, class by class, with noise: what a warm start releases before the first step.

The Gaussian mechanism at sampling rate 1 (Dwork and Roth 2014, appendix A; exact cost: Balle and Wang 2018, arXiv
1805.06530).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

import torch
from torch import Tensor

from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.privacy.clipping import clip_factors
from dpdm_cli.privacy.entropy import Entropy
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.noise import with_noise


def noisy_class_sums(
    ledger: Ledger,
    micro_batches: Iterable[tuple[Tensor, Tensor]],
    *,
    classes: int,
    size: int,
    entropy: Entropy = os.urandom,
    processes: Processes = ALONE,
) -> Tensor:
    """One release of the plan's warm start: the sum of one vector a record, added up by class, plus noise.

    Guarantee: a record contributes to one class alone, by a vector scaled down to norm at most 1 (exactly zero if it
    isn't finite). So adding or removing one record moves all the sums together by at most 1 in L2 norm: a Gaussian
    mechanism of sensitivity 1 and noise `plan.warm_sigma`. Nothing is divided by a number of records; whoever needs a
    mean takes a noisy count as one more coordinate.

    Args:
        ledger: its plan gives the noise; the release is entered there.
        micro_batches: vectors [b, size], float32 or wider, overwritten where not finite, and their classes [b]; those
            of this process, when there are several.
        classes, size: of the result; public.
        entropy: source of secret bytes.
        processes: that make the release together.

    Returns:
        [classes, size] float64, on the CPU.

    Raises:
        PrivacyError: the plan has no warm start, or its sums have all been released.
    """
    ledger.require_budget(warm=True)
    total = torch.zeros(classes, size, dtype=torch.float64)
    for rows, labels in micro_batches:
        total.index_add_(0, labels.cpu(), _clipped(rows))
    return _released(ledger, total, entropy, processes)


def noisy_class_squares(
    ledger: Ledger,
    micro_batches: Iterable[tuple[Tensor, Tensor]],
    *,
    classes: int,
    size: int,
    entropy: Entropy = os.urandom,
    processes: Processes = ALONE,
) -> Tensor:
    """One release of the plan's warm start: the sum of z z^T by class, where z is one vector a record, plus noise.

    Guarantee: z is scaled down to norm at most 1, so |z z^T| = |z|^2 is at most 1 in Frobenius norm, and adding or
    removing one record moves all the sums together by at most that. The noise is symmetric: N(0, warm_sigma^2) on the
    diagonal and on sqrt(2) times each entry above it, which are the coordinates that have the Frobenius norm.

    Args, raises: as for `noisy_class_sums`.

    Returns:
        [classes, size, size] float64, symmetric, on the CPU.
    """
    ledger.require_budget(warm=True)
    squares = torch.zeros(classes, size, size, dtype=torch.float64)
    for rows, labels in micro_batches:
        clipped, where = _clipped(rows), labels.cpu()
        for label in torch.unique(where).tolist():
            members = clipped[where == label]
            squares[label] += members.T @ members
    row, column = torch.triu_indices(size, size)
    isometric = torch.where(row == column, 1.0, math.sqrt(2)).double()
    noisy = _released(ledger, squares[:, row, column] * isometric, entropy, processes) / isometric
    squares[:, row, column] = noisy
    squares[:, column, row] = noisy
    return squares


def _clipped(rows: Tensor) -> Tensor:
    """Rows scaled down to norm at most 1, in float64 on the CPU."""
    factors = clip_factors(rows, 1.0)
    return factors.cpu().double()[:, None] * rows.cpu().double()


def _released(ledger: Ledger, total: Tensor, entropy: Entropy, processes: Processes) -> Tensor:
    sigma = ledger.plan.warm_sigma
    assert sigma is not None
    noisy = with_noise(total.flatten(), sigma, entropy, processes=processes)
    ledger.record(warm=True)
    return noisy.view_as(total)
