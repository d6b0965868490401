"""Pixels as pictures inside a page: PNG files of our own making, written into the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from dpdm_cli.sampling.png import Pixels

LARGEST = 96
"""Pixels on a side of an image in a page; larger ones are reduced."""

_GAP = 1
_SMALLEST_SHOWN = 44  # CSS pixels on a side


def data_uri(picture: Image.Image) -> str:
    """A picture as the URI of a PNG file without metadata."""
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def strip(images: Sequence[Pixels]) -> Image.Image:
    """Images [C, H, W], uint8, side by side with transparent gaps."""
    small = [_reduced(image) for image in images]
    height, width = small[0].height, small[0].width
    picture = Image.new("RGBA", (len(small) * (width + _GAP) - _GAP, height))
    for place, image in enumerate(small):
        picture.paste(image, (place * (width + _GAP), 0))
    return picture


def shown_width(picture: Image.Image) -> int:
    """CSS pixels: small images are enlarged by a whole number, which a narrow page may undo."""
    return picture.width * max(1, round(_SMALLEST_SHOWN / picture.height))


def _reduced(image: Pixels) -> Image.Image:
    rows = np.ascontiguousarray(image.transpose(1, 2, 0))
    picture = Image.fromarray(rows[:, :, 0] if rows.shape[2] == 1 else rows)
    scale = LARGEST / max(picture.size)
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BOX)
    return picture
