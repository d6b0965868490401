"""Confusion matrices as a picture. Knows counts and names; no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL, _SMALL_CELL, _NARROWEST, _MARGINS = 0.42, 0.12, 2.0, 1.2  # inches
_MOST_COUNTED = 20  # above this many classes the cells are too small for counts
_LONGEST_NAME = 16  # characters


@dataclass(frozen=True)
class Panel:
    """One matrix: counts [k, k], row = true class, column = predicted class."""

    title: str
    counts: Tensor


def draw_confusions(rows: Sequence[Sequence[Panel]], classes: Sequence[str]) -> Figure:
    """Panels in rows, each a grid of counts; a cell is darker the larger its share of the true class.

    Args:
        rows: at least one row of at least one panel; all panels have the same number of classes.
        classes: names in label order, cut where they are too long.
    """
    from matplotlib.figure import Figure

    count, across = len(classes), max(map(len, rows))
    side = max(_NARROWEST, count * (_CELL if count <= _MOST_COUNTED else _SMALL_CELL)) + _MARGINS
    figure = Figure(figsize=(across * side, len(rows) * side), dpi=100, layout="constrained")
    names = [n if len(n) <= _LONGEST_NAME else n[: _LONGEST_NAME - 1] + "…" for n in classes]
    for panels, line in zip(rows, figure.subplots(len(rows), across, squeeze=False), strict=True):
        for axes in line[len(panels) :]:
            axes.set_axis_off()
        for panel, axes in zip(panels, line, strict=False):
            _draw(axes, panel, names)
    return figure


def _draw(axes: Axes, panel: Panel, names: Sequence[str]) -> None:
    share = panel.counts / panel.counts.sum(dim=1, keepdim=True).clamp(min=1)
    # The root makes rare confusions visible beside a full diagonal.
    axes.imshow(share.sqrt().numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel("predicted class", fontsize=8)
    axes.set_ylabel("true class", fontsize=8)
    ticks = range(0, len(names), 1 if len(names) <= _MOST_COUNTED else 5)
    shown = [names[tick] for tick in ticks]
    axes.set_xticks(ticks, shown, rotation=90 if max(map(len, shown)) > 3 else 0)
    axes.set_yticks(ticks, shown)
    axes.tick_params(labelsize=8, length=0)
    if len(names) <= _MOST_COUNTED:
        for row, column in panel.counts.nonzero().tolist():
            number, part = int(panel.counts[row, column]), float(share[row, column])
            text = str(number) if number < 10_000 else f"{number / 1000:.0f}k"
            ink = "white" if part > 0.35 else "black"
            axes.text(column, row, text, color=ink, fontsize=8, ha="center", va="center")
