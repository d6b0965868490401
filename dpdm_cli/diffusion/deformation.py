"""Small smooth deformations of images: what keeps a class and varies its shape.

An image stays in its class when it is rotated, sheared, scaled or shifted a little, or bent smoothly (Simard,
Steinkraus and Platt, "Best practices for convolutional neural networks", ICDAR 2003). A model that was trained with
noise knows its classes less widely than they are; deformed, its images tell a classifier more. No private image is
read for it, so it is post-processing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dpdm_cli.diffusion.keyed_noise import KeyedNoise

TURN, STRETCH, SHEAR = math.radians(15), 0.15, 0.3
"""At amplitude 1: the largest angle, logarithm of a scale (of each axis its own), and shear."""

SHIFT, BEND, SMOOTHNESS = 0.055, 0.08, 1 / 7
"""At amplitude 1, as a share of the image's side: the largest shift, and the standard deviation of the elastic
displacement, which is white noise behind a Gaussian filter of this width."""


def deform(images: Tensor, strength: float, noise: KeyedNoise) -> Tensor:
    """Deform each image by an amplitude of its own, uniform between 0 and `strength`.

    Args:
        images: float [R, C, H, W]; edges are continued beyond the border.
        strength: at least 0; 0 leaves images unchanged, 1 is the amplitude of this file's constants.
        noise: of these R images; seven numbers and two maps [H, W] are drawn from it.

    Returns:
        Bicubic samples of the deformed images, [R, C, H, W].
    """
    height, width = images.shape[2:]
    amplitude = strength * noise.uniform(1)
    turn, wider, higher, shear, across, down = (amplitude * (2 * noise.uniform(6) - 1)).unbind(
        dim=1
    )
    turn, shear = TURN * turn, SHEAR * shear
    wider, higher = (STRETCH * wider).exp(), (STRETCH * higher).exp()
    # Coordinates run from -1 to 1, so that a share of the side counts twice.
    affine = torch.stack(
        [
            torch.stack([turn.cos() * wider, (shear - turn.sin()) * higher, 2 * SHIFT * across], 1),
            torch.stack([turn.sin() * wider, turn.cos() * higher, 2 * SHIFT * down], 1),
        ],
        dim=1,
    )
    places = F.affine_grid(affine, list(images.shape), align_corners=False)
    bend = _smooth(noise.normal(2, height, width))
    places = places + 2 * BEND * amplitude[:, :, None, None] * bend.permute(0, 2, 3, 1)
    return F.grid_sample(images, places, mode="bicubic", padding_mode="border", align_corners=False)


def _smooth(white: Tensor) -> Tensor:
    """White noise [R, 2, H, W] behind a Gaussian filter, with variance 1 away from the border."""
    for dim in (2, 3):
        kernel = _gaussian(SMOOTHNESS * white.shape[dim]).to(white)
        shape = [1, 1, 1, 1]
        shape[dim] = len(kernel)
        maps = white.flatten(0, 1)[:, None]
        padding = (len(kernel) // 2, 0) if dim == 2 else (0, len(kernel) // 2)
        white = F.conv2d(maps, kernel.view(shape), padding=padding).view(white.shape)
    return white


def _gaussian(width: float) -> Tensor:
    """Weights of a Gaussian filter, of which the squares add up to 1: independent noise keeps its variance."""
    reach = math.ceil(3 * width)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width) ** 2)
    return F.normalize(weights, dim=0)
