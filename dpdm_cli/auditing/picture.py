"""The picture of a statistical audit: scores of canaries in and out, and what they prove beside what is claimed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dpdm_cli.files import replacing
from dpdm_cli.privacy.audit.canaries import CanaryAudit
from dpdm_cli.privacy.audit.lower_bounds import Scores

_WIDTH, _HEIGHT, _MARGIN = 900, 560, 40
_BINS = 60
_IN, _OUT, _CLAIM, _INK = (31, 119, 180), (255, 127, 14), (44, 160, 44), (40, 40, 40)


def write_picture(path: Path, audit: CanaryAudit) -> None:
    """Draw the audit into a PNG file.

    Raises:
        ResourceError: the file cannot be written.
    """
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=15)
    draw.text(
        (_MARGIN, 10),
        f"scores of {len(audit.taken)} canaries that were in (blue) and {len(audit.left_out)} "
        "that were left out (orange)",
        _INK,
        font,
    )
    _histograms(draw, audit.taken, audit.left_out)
    _bars(draw, font, audit)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


def _histograms(draw: ImageDraw.ImageDraw, taken: Scores, left_out: Scores) -> None:
    """Both on one axis; a few wild scores do not squeeze the rest."""
    everything = np.concatenate([taken, left_out])
    low, high = np.quantile(everything, [0.005, 0.995])
    width = max(high - low, 1e-9)
    edges = np.linspace(low - 0.05 * width, high + 0.05 * width, _BINS + 1)
    top, bottom = 40, 300
    counts = [np.histogram(np.clip(s, edges[0], edges[-1]), edges)[0] for s in (taken, left_out)]
    tallest = max(1, *(int(c.max()) for c in counts))
    step = (_WIDTH - 2 * _MARGIN) / _BINS
    for colour, values, shift in ((_OUT, counts[1], 0.0), (_IN, counts[0], 0.5)):
        for index, count in enumerate(values):
            left = _MARGIN + (index + shift) * step
            height = (bottom - top) * int(count) / tallest
            if count:
                draw.rectangle([left, bottom - height, left + step / 2 - 1, bottom], fill=colour)
    draw.line([_MARGIN, bottom, _WIDTH - _MARGIN, bottom], fill=_INK)


def _bars(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    audit: CanaryAudit,
) -> None:
    pool = audit.shown[0]
    rows = [
        ("claimed epsilon", audit.claimed, _CLAIM),
        ("at least, by one run (95 %)", pool.one_run or 0.0, _IN),
        ("at least, by error rates (95 %)", pool.clopper_pearson, _IN),
        ("at least, by means (95 %)", pool.gaussian_mean, _IN),
    ]
    longest = max(audit.claimed, *(value for _, value, _ in rows if math.isfinite(value))) or 1.0
    for index, (words, value, colour) in enumerate(rows):
        y = 340 + 50 * index
        length = 480 * min(1.0, value / longest)
        draw.text((_MARGIN, y), words, _INK, font)
        draw.rectangle([_MARGIN + 260, y, _MARGIN + 260 + length, y + 20], fill=colour)
        shown = f"{value:.2f}" if math.isfinite(value) else "infinite"
        draw.text((_MARGIN + 270 + length, y), shown, _INK, font)
