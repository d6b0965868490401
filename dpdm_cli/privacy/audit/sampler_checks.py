"""Each record enters each step independently, with the probability of the plan."""

from __future__ import annotations

import math

import numpy as np

from dpdm_cli.privacy.audit.deviations import binomial_z, overlap_z, spread_z
from dpdm_cli.privacy.audit.findings import Z_LIMIT, Finding
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.poisson import PoissonSampler

_TRIALS = 20_000_000  # at most


def check_sampler(plan: PrivacyPlan) -> list[Finding]:
    """Each record enters each step independently with probability q: rates, sizes, counts, lags, empty batches."""
    q = plan.sample_rate
    steps = 400
    records = min(_TRIALS // steps, max(200, math.ceil(50 / q)))
    records += records % 2
    sampler = PoissonSampler(plan)
    masks = np.zeros((steps, records), dtype=np.float32)
    for step in range(steps):
        masks[step, sampler.draw(records).numpy()] = 1.0
    hits = int(masks.sum(dtype=np.float64))
    if q == 1:
        missed = steps * records - hits
        return [Finding("sampler, rate", missed == 0, f"{missed} draws missed at rate 1")]
    rate = binomial_z(hits, steps * records, q)
    sizes = spread_z(masks.sum(1, dtype=np.float64), records)
    counts = spread_z(masks.sum(0, dtype=np.float64), steps)
    lag = overlap_z(masks[:-1], masks[1:], q)
    halves = overlap_z(masks[:, : records // 2], masks[:, records // 2 :], q)
    few = max(1, round(0.7 / q))
    draws = 2000 if few <= _TRIALS // 2000 else max(1, _TRIALS // few)
    empty = sum(len(sampler.draw(few)) == 0 for _ in range(draws))
    empty_z = binomial_z(empty, draws, (1 - q) ** few)
    measured = {
        "rate": (rate, f"{hits / (steps * records):.6g} where q is {q:.6g}"),
        "sizes of batches": (sizes, "their variance"),
        "counts of records": (counts, "their variance"),
        "from one step to the next": (lag, "records drawn again"),
        "between records": (halves, "records drawn together"),
        "empty batches": (empty_z, f"{empty} of {draws} draws among {few} records"),
    }
    return [
        Finding(
            f"sampler, {name}",
            bool(abs(z) <= Z_LIMIT),
            f"{words}: {z:+.1f} standard deviations off (limit {Z_LIMIT})",
        )
        for name, (z, words) in measured.items()
    ]
