"""A picture of many small images, one row per class, with names and a caption."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from dpdm_cli.checkpoint import Model, dataset_in_words
from dpdm_cli.compute.device import to_device
from dpdm_cli.diffusion.generation import SamplerSettings, generate
from dpdm_cli.files import write_bytes
from dpdm_cli.privacy.statement import AnyStatement
from dpdm_cli.sampling.png import XMP_KEYWORD, XMP_MARK

ROWS, COLUMNS = 10, 10
_COLUMNS = 8  # of a model's grid

_LOOKED_AT = 10_000  # images, for a picture of the first ones

_TEXT, _GAP, _MARGIN = 14, 2, 10  # pixels
_NARROWEST = 360  # pixels; a caption needs room
_LONGEST_NAME = 24  # characters


def draw_grid(
    model: Model,
    path: Path,
    device: torch.device,
    *,
    seed: int = 0,
    described: bool = True,
    remark: str = "",
) -> None:
    """Draw a few images of each class from a model and write them as one PNG picture.

    The first ten classes, eight images each; 64 images for an unconditional model. The caption is the model's claim,
    or that nothing is claimed, then a remark; with `described` it is also stored as the file's description.

    Raises:
        ResourceError: the disk is full or not writable; an older picture stays as it was.
    """
    columns, classes = _COLUMNS, model.classes[:ROWS]
    rows = len(classes) or columns
    labels = None
    if classes:
        labels = torch.arange(rows, device=device).repeat_interleave(columns)
    settings = SamplerSettings.default(has_prior=model.denoiser.prior is not None)
    images = generate(
        to_device(model.denoiser, device),
        torch.arange(rows * columns, device=device),
        labels,
        model.image_shape,
        settings,
        seed=seed,
    )
    parts = torch.split(images.cpu(), columns)
    names = classes or ("",) * rows
    text = " ".join([caption(model.statement, model.dataset, settings, seed), remark]).strip()
    write_grid(path, list(zip(names, parts, strict=True)), text, described=described)


def images_in_grid(classes: int) -> int:
    """How many images `draw_grid` draws from a model of so many classes."""
    return (min(classes, ROWS) or _COLUMNS) * _COLUMNS


def caption(statement: AnyStatement, dataset: str, settings: SamplerSettings, seed: int) -> str:
    """What a picture of synthetic images must say about itself; first of all if nothing is claimed."""
    trained_on = dataset_in_words(dataset)
    return f"{statement.headline}. Synthetic images, model trained on {trained_on}; {settings}; seed {seed}."


def first_rows(labels: Iterable[int | None]) -> list[tuple[int | None, list[int]]]:
    """Which of the images 0, 1, ... with these labels a picture shows: the first ten of each of the first ten classes.

    Images without a label fill rows of ten in their order. Gives label and indices of each row.
    """
    rows: dict[int, list[int]] = {}
    named: dict[int, int | None] = {}
    for index, label in enumerate(islice(labels, _LOOKED_AT)):
        key = index // COLUMNS if label is None else label
        if key in rows or len(rows) < ROWS:
            row = rows.setdefault(key, [])
            named[key] = label
            if len(row) < COLUMNS:
                row.append(index)
    return [(named[key], row) for key, row in rows.items()]


def write_grid(
    path: Path,
    rows: Sequence[tuple[str, Tensor]],
    text: str = "",
    *,
    described: bool = True,
    marked: bool = True,
) -> None:
    """Write `grid_picture` as PNG, whole or not at all; unless told otherwise with `XMP_MARK`, and the caption as its
    description.

    Raises:
        ResourceError: the disk is full or not writable; an older picture stays as it was.
    """
    content = io.BytesIO()
    info = PngInfo()
    if marked:
        info.add_itxt(XMP_KEYWORD, XMP_MARK)
    if described:
        info.add_itxt("Description", text)
    grid_picture(rows, text).save(content, "PNG", pnginfo=info)
    write_bytes(path, content.getvalue())


def grid_picture(rows: Sequence[tuple[str, Tensor]], text: str = "") -> Image.Image:
    """Images in rows, the name of a row to its left, a caption below.

    Args:
        rows: name and uint8 [R, C, H, W] of each row; at least one image, all of one shape, C is 1 or 3.
        text: the caption, wrapped to the picture's width.

    Returns:
        An RGB picture; small images are enlarged by a whole number, pixel by pixel.
    """
    height, width = rows[0][1].shape[2:]
    scale = max(1, round(56 / max(height, width)))
    cell_height, cell_width = height * scale + _GAP, width * scale + _GAP
    font = ImageFont.load_default(_TEXT)
    names = [_drawable(_shortened(name), font) for name, _ in rows]
    left = _MARGIN + round(max(font.getlength(name) for name in names))
    left += _MARGIN if left > _MARGIN else 0
    columns = max(len(images) for _, images in rows)
    total_width = max(left + columns * cell_width + _MARGIN, _NARROWEST)
    lines = _wrapped(_drawable(text, font), font, total_width - 2 * _MARGIN)
    bottom = _MARGIN + len(rows) * cell_height
    total_height = bottom + _MARGIN + len(lines) * (_TEXT + 4)
    picture = Image.new("RGB", (total_width, total_height), "white")
    draw = ImageDraw.Draw(picture)
    for row, (name, (_, images)) in enumerate(zip(names, rows, strict=True)):
        top = _MARGIN + row * cell_height
        draw.text((_MARGIN, top + (cell_height - _TEXT) // 2 - 2), name, "black", font)
        for column, image in enumerate(images):
            picture.paste(_enlarged(image, scale), (left + column * cell_width, top))
    for number, line in enumerate(lines):
        draw.text((_MARGIN, bottom + _MARGIN // 2 + number * (_TEXT + 4)), line, "black", font)
    return picture


def _enlarged(image: Tensor, scale: int) -> Image.Image:
    large = image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return Image.fromarray(large.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _drawable(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    # Without FreeType Pillow falls back to a font that raises on characters it lacks.
    if isinstance(font, ImageFont.FreeTypeFont):
        return text
    return text.encode("latin-1", "replace").decode("latin-1")


def _wrapped(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
