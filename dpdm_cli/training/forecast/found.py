"""What was found in the images, for the eyes of whoever has them. It is written to no file and never published."""

from __future__ import annotations

import torch

from dpdm_cli.data import ImageSet

_SHOWN = 20  # classes


def found_in(images: ImageSet) -> str:
    """Number, size and colours of the images, and how many there are of each class."""
    count, channels = images.images.shape[:2]
    height, width = images.size
    text = f"found {count:,} images, {width}x{height}, {'grey' if channels == 1 else 'colour'}"
    if images.labels is None:
        return f"{text}, no classes"
    counts = torch.bincount(images.labels, minlength=len(images.classes)).tolist()
    pairs = [f"{name} {n:,}" for name, n in zip(images.classes, counts, strict=True)]
    more = f", and {len(pairs) - _SHOWN:,} more" if len(pairs) > _SHOWN else ""
    return f"{text}, {len(pairs):,} classes: {', '.join(pairs[:_SHOWN])}{more}"
