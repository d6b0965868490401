"""Sums over all records, class by class, with noise: what a warm start releases before the first step.

A record has one vector, or several, which may be of several classes: the images of one person. Those of a record with m
of them count 1/m each. With e_c the unit vector of class c, a record then adds (1/m) sum_i e_{c_i} (x) v_i to all the
sums together, whose norm is at most (1/m) sum_i |v_i| <= 1 by the triangle inequality: whatever the classes and however
many vectors, a record moves the sums by no more than a record of one vector.

The Gaussian mechanism at sampling rate 1 (Dwork and Roth 2014, appendix A; exact cost: Balle and Wang 2018, arXiv
1805.06530).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.errors import PrivacyError
from dpdm_cli.privacy.clipping import clip_factors
from dpdm_cli.privacy.entropy import Entropy
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.noise import with_noise


def noisy_class_sums(
    ledger: Ledger,
    micro_batches: Iterable[tuple[Tensor, ...]],
    *,
    classes: int,
    size: int,
    vectors_of: Tensor | None = None,
    entropy: Entropy = os.urandom,
    processes: Processes = ALONE,
) -> Tensor:
    """One release of the plan's warm start: the sum of one vector a record, added up by class, plus noise.

    Guarantee: each vector is scaled down to norm at most 1 (exactly zero if it isn't finite), and those of one record
    count 1 together. So adding or removing one record moves all the sums together by at most 1 in L2 norm: a Gaussian
    mechanism of sensitivity 1 and noise `plan.warm_sigma`. Nothing is divided by a number of records; whoever needs a
    mean takes a noisy count as one more coordinate.

    Args:
        ledger: its plan gives the noise; the release is entered there.
        micro_batches: vectors [b, size], float32 or wider, overwritten where not finite, and their classes [b]; those
            of this process, when there are several. With `vectors_of`, the records they are of [b] come third.
        classes, size: of the result; public.
        vectors_of: how many vectors each record has in all micro-batches of all processes, int64 [records]; None where
            every vector is a record.
        entropy: source of secret bytes.
        processes: that make the release together.

    Returns:
        [classes, size] float64, on the CPU.

    Raises:
        PrivacyError: the plan has no warm start, or its sums have all been released; a record has more vectors than
            were said, and nothing is released.
    """
    ledger.require_budget(warm=True)
    total = torch.zeros(classes, size, dtype=torch.float64)
    for rows, labels, shares in _shared(micro_batches, vectors_of):
        total.index_add_(0, labels, shares[:, None] * _clipped(rows))
    return _released(ledger, total, entropy, processes)


def noisy_class_squares(
    ledger: Ledger,
    micro_batches: Iterable[tuple[Tensor, ...]],
    *,
    classes: int,
    size: int,
    vectors_of: Tensor | None = None,
    entropy: Entropy = os.urandom,
    processes: Processes = ALONE,
) -> Tensor:
    """One release of the plan's warm start: the sum of z z^T by class, where z is one vector a record, plus noise.

    Guarantee: z is scaled down to norm at most 1, so |z z^T| = |z|^2 is at most 1 in Frobenius norm; those of one
    record count 1 together, so that adding or removing it moves all the sums together by at most that. The noise is
    symmetric: N(0, warm_sigma^2) on the diagonal and on sqrt(2) times each entry above it, which are the coordinates
    that have the Frobenius norm.

    Args, raises: as for `noisy_class_sums`.

    Returns:
        [classes, size, size] float64, symmetric, on the CPU.
    """
    ledger.require_budget(warm=True)
    squares = torch.zeros(classes, size, size, dtype=torch.float64)
    for rows, labels, shares in _shared(micro_batches, vectors_of):
        clipped = _clipped(rows)
        for label in torch.unique(labels).tolist():
            chosen = labels == label
            members = clipped[chosen]
            squares[label] += members.T @ (shares[chosen, None] * members)
    row, column = torch.triu_indices(size, size)
    isometric = torch.where(row == column, 1.0, math.sqrt(2)).double()
    noisy = _released(ledger, squares[:, row, column] * isometric, entropy, processes) / isometric
    squares[:, row, column] = noisy
    squares[:, column, row] = noisy
    return squares


def _shared(
    micro_batches: Iterable[tuple[Tensor, ...]], vectors_of: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Vectors, their classes and by what each counts: 1 over the number of its record's, float64 on the CPU [b]."""
    left = None if vectors_of is None else vectors_of.clone()
    for rows, labels, *whose in micro_batches:
        if vectors_of is None or left is None:
            yield rows, labels.cpu(), torch.ones_like(labels, dtype=torch.float64, device="cpu")
            continue
        (of,) = whose
        left.index_add_(0, of, torch.ones_like(of), alpha=-1)
        if (left < 0).any():
            raise PrivacyError(
                "a record has more vectors than were said",
                "nothing was released. Please report this",
            )
        yield rows, labels.cpu(), vectors_of[of].double().reciprocal()


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
