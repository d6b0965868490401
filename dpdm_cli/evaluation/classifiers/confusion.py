"""Confusion matrices as a picture. Knows counts and names; no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_CELL, _SMALL_CELL = 36, 12
_MOST_COUNTED = 20  # above this many classes the cells are too small for counts
_MARGIN, _NAME_WIDTH = 16, 90
_INK, _PAPER = (20, 20, 20), (255, 255, 255)
_DARKEST = (8, 64, 129)


@dataclass(frozen=True)
class Panel:
    """One matrix: counts [k, k], row = true class, column = predicted class."""

    title: str
    counts: Tensor


def draw_confusions(rows: Sequence[Sequence[Panel]], classes: Sequence[str]) -> Image.Image:
    """Panels in rows, each a grid of counts; a cell is darker the larger its share of the true
    class.

    Args:
        rows: at least one row of at least one panel; all panels have the same number of classes.
        classes: names in label order, cut where they are too long.

    Returns:
        An RGB picture.
    """
    count = len(classes)
    cell = _CELL if count <= _MOST_COUNTED else _SMALL_CELL
    width = _NAME_WIDTH + count * cell + 2 * _MARGIN
    height = 3 * _MARGIN + 40 + count * cell
    picture = Image.new("RGB", (max(map(len, rows)) * width, len(rows) * height), _PAPER)
    draw = ImageDraw.Draw(picture)
    for j, row in enumerate(rows):
        for i, panel in enumerate(row):
            origin = i * width + _MARGIN, j * height + _MARGIN
            _draw_panel(draw, origin, panel, classes, cell)
    return picture


def _draw_panel(
    draw: ImageDraw.ImageDraw,
    origin: tuple[int, int],
    panel: Panel,
    classes: Sequence[str],
    cell: int,
) -> None:
    left, top = origin
    title, label = ImageFont.load_default(15), ImageFont.load_default(11)
    draw.text((left, top), panel.title, fill=_INK, font=title)
    draw.text((left, top + 22), "true class down, predicted across", fill=_INK, font=label)
    left, top = left + _NAME_WIDTH, top + 40 + _MARGIN
    share = panel.counts / panel.counts.sum(dim=1, keepdim=True).clamp(min=1)
    for row, name in enumerate(classes):
        middle = row * cell + cell // 2
        if cell == _CELL or row % 5 == 0:
            shown = _cut(draw, name, label, _NAME_WIDTH - 8)
            draw.text((left - 6, top + middle), shown, fill=_INK, font=label, anchor="rm")
            head = _cut(draw, name, label, cell - 2)
            draw.text((left + middle, top - 3), head, fill=_INK, font=label, anchor="ms")
        for column in range(len(classes)):
            corner = left + column * cell, top + row * cell
            part = float(share[row, column])
            draw.rectangle((*corner, corner[0] + cell - 2, corner[1] + cell - 2), fill=_shade(part))
            if cell == _CELL and (number := int(panel.counts[row, column])):
                centre = corner[0] + cell // 2 - 1, corner[1] + cell // 2 - 1
                ink = _PAPER if part > 0.5 else _INK
                draw.text(centre, _short(number), fill=ink, font=label, anchor="mm")


def _shade(part: float) -> tuple[int, int, int]:
    # The root makes rare confusions visible beside a full diagonal.
    depth = part**0.5
    red, green, blue = (round(245 + (dark - 245) * depth) for dark in _DARKEST)
    return red, green, blue


def _short(number: int) -> str:
    return str(number) if number < 10_000 else f"{number / 1000:.0f}k"


def _cut(draw: ImageDraw.ImageDraw, text: str, font: Font, width: int) -> str:
    while len(text) > 1 and draw.textlength(text, font=font) > width:
        text = text[:-1]
    return text


def percent(counts: Tensor) -> float:
    """Accuracy in percent of a confusion matrix [k, k]."""
    return 100.0 * float(torch.trace(counts)) / max(int(counts.sum()), 1)
