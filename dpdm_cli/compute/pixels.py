"""Pixels as bytes, and as numbers in [-1, 1], which all networks here take and give."""

from __future__ import annotations

import torch
from torch import Tensor


def to_floats(images: Tensor) -> Tensor:
    """uint8 of any shape to float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def to_bytes(images: Tensor) -> Tensor:
    """Numbers of any shape, those outside [-1, 1] taken for the ends, to the nearest of 256 levels, uint8."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
