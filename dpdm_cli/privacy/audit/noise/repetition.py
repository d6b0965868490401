"""Noise is drawn afresh for every coordinate of every release: nothing in it is correlated or repeated."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dpdm_cli.privacy.audit.deviations import count_z, lags_z, limit_of_worst
from dpdm_cli.privacy.audit.findings import PUBLIC_GRID, Z_LIMIT, Finding
from dpdm_cli.privacy.audit.replay import release_of, step_on, steps_alone
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan

_MOST = 1 << 19  # numbers that are compared, to bound the time
_SEGMENT = 4  # numbers in a row
_SHORT = 8  # numbers of a short release
_SHORT_RELEASES = 1200  # of 2^16 different ones two are alike, but for one time in 59,000


def lags_finding(noise: Tensor) -> Finding:
    """Numbers of noise [T, P] are uncorrelated, at every distance within a release and between two.

    By correlations of the numbers, and of their sizes: two that differ in sign by chance are not correlated.
    """
    series = noise.flatten()[:_MOST].float()
    deviations = {"numbers": lags_z(series), "their sizes": lags_z(series.abs())}
    worst = max(deviations, key=lambda what: abs(deviations[what][0]))
    z, places, _ = deviations[worst]
    limit = limit_of_worst(sum(lags for _, _, lags in deviations.values()))
    return Finding(
        "noise, lags",
        abs(z) <= limit,
        f"correlations of {worst} at most {abs(z):.1f} standard deviations from 0, {places:,} places apart "
        f"(limit {limit:.1f})",
    )


def repetition_findings(noise: Tensor) -> list[Finding]:
    """Numbers of pure noise [T, P] are equal as often as chance predicts, and no run of them is repeated.

    On the public grid normal numbers coincide by chance: two with probability g / (2 sqrt(pi)). Out of a pool of M
    numbers it would be 1 / M more.
    """
    noise = noise[: max(2, _MOST // noise.shape[1])]
    cells = torch.round(noise / PUBLIC_GRID).to(torch.int64).numpy()
    n = cells.size
    _, counts = np.unique(cells, return_counts=True)
    alike = float((counts * (counts - 1.0)).sum() / 2)
    two, three = PUBLIC_GRID / (2 * math.sqrt(math.pi)), PUBLIC_GRID**2 / (2 * math.pi * 3**0.5)
    mean = n * (n - 1) / 2 * two
    # Pairs that share a number are not independent: a U-statistic (Hoeffding 1948).
    z = count_z(alike, mean, mean + n**3 * (three - two**2))
    again = _repeated(np.abs(cells))
    return [
        Finding(
            "noise, repeated numbers",
            abs(z) <= Z_LIMIT,
            f"{alike:,.0f} pairs of equal numbers where chance makes {mean:,.1f}: {z:+.1f} standard deviations off "
            f"(limit {Z_LIMIT})",
        ),
        Finding(
            "noise, repeated segments",
            again == 0,
            f"{again:,} times {_SEGMENT} numbers in a row came again, but for their signs",
        ),
    ]


def _repeated(cells: npt.NDArray[np.int64]) -> int:
    """How many segments of rows [T, P] have come before."""
    keys = np.zeros((len(cells), max(0, cells.shape[1] - _SEGMENT + 1)), dtype=np.uint64)
    for place in range(_SEGMENT):
        column = cells[:, place : place + keys.shape[1]].astype(np.uint64)
        keys = (keys ^ column) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    ordered = np.sort(keys, axis=None)
    return int(np.count_nonzero(ordered[1:] == ordered[:-1]))


def check_seeds(plan: PrivacyPlan, device: torch.device) -> Finding:
    """Many short releases, each of a step of its own, all differ: a seed of 16 bits would soon repeat."""
    nobody = torch.empty(0, dtype=torch.int64)
    rows = torch.empty(0, _SHORT, device=device)
    ledger = Ledger(steps_alone(plan, plan.sigma, _SHORT_RELEASES))
    seen = {
        release_of(*step_on(rows, ledger, micro_batch=1), nobody).numpy().tobytes()
        for _ in range(_SHORT_RELEASES)
    }
    again = _SHORT_RELEASES - len(seen)
    return Finding(
        "noise, short releases",
        again == 0,
        f"{again:,} of {_SHORT_RELEASES:,} of {_SHORT} numbers came again",
    )
