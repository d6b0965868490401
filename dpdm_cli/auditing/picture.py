"""The picture of a statistical audit: scores of canaries in and out, and what they prove beside what is claimed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from dpdm_cli.files import replacing
from dpdm_cli.privacy.audit.canaries import CanaryAudit

_BINS = 60


def write_picture(path: Path, audit: CanaryAudit) -> None:
    """Draw the audit into a PNG file.

    Raises:
        ResourceError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.6), dpi=100, layout="constrained")
    scores, bounds = figure.subplots(2, 1, height_ratios=[3, 2])

    # A few wild scores do not squeeze the rest.
    low, high = np.quantile(np.concatenate([audit.taken, audit.left_out]), [0.005, 0.995])
    room = 0.05 * max(high - low, 1e-9)
    edges = np.linspace(low - room, high + room, _BINS + 1)
    for values, what, colour in (
        (audit.left_out, "left out", "tab:orange"),
        (audit.taken, "in", "tab:blue"),
    ):
        label = f"{len(values)} canaries that were {what}"
        scores.hist(
            np.clip(values, edges[0], edges[-1]),
            edges.tolist(),
            color=colour,
            alpha=0.6,
            label=label,
        )
    scores.set_xlabel("score")
    scores.set_ylabel("canaries")
    scores.legend()

    pool = audit.shown[0]
    rows = {
        "claimed": audit.claimed,
        "at least, by one run (95 %)": pool.one_run or 0.0,
        "at least, by error rates (95 %)": pool.clopper_pearson,
        "at least, by means (95 %)": pool.gaussian_mean,
    }
    longest = max(filter(math.isfinite, rows.values())) or 1.0
    lengths = [min(value, longest) for value in rows.values()]
    bars = bounds.barh(list(rows), lengths, color=["tab:green", *["tab:blue"] * 3])
    bounds.bar_label(
        bars, [f"{v:.2f}" if math.isfinite(v) else "infinite" for v in rows.values()], padding=4
    )
    bounds.invert_yaxis()
    bounds.set_xlim(0, 1.1 * longest)
    bounds.set_xlabel("epsilon")

    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
