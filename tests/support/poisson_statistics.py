"""Whether masks could come from Poisson sampling."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats


def poisson_p_value(masks: np.ndarray, rate: float) -> float:
    """Smallest p-value, with Bonferroni, of tests that Poisson sampling at rate must pass."""
    steps, records = masks.shape
    draws = masks.size
    p_values = [stats.binomtest(int(masks.sum()), draws, rate).pvalue]
    sizes = masks.sum(1)
    spread = (sizes.var(ddof=1) / (records * rate * (1 - rate))) * (steps - 1)
    p_values.append(2 * min(stats.chi2.cdf(spread, steps - 1), stats.chi2.sf(spread, steps - 1)))
    counts = masks.sum(0)
    spread = (counts.var(ddof=1) / (steps * rate * (1 - rate))) * (records - 1)
    p_values.append(
        2 * min(stats.chi2.cdf(spread, records - 1), stats.chi2.sf(spread, records - 1))
    )
    centred = masks - rate
    for lag in (1, 2, round(1 / rate)):
        z = (centred[lag:] * centred[:-lag]).sum() / (
            rate * (1 - rate) * math.sqrt(centred[lag:].size)
        )
        p_values.append(2 * stats.norm.sf(abs(z)))
    empty = int((sizes == 0).sum())
    p_values.append(stats.binomtest(empty, steps, (1 - rate) ** records).pvalue)
    return min(1.0, len(p_values) * min(p_values))
