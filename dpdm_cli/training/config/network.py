"""The network that a set of images needs."""

from __future__ import annotations

from dataclasses import replace

import torch

from dpdm_cli.data import ImageSet
from dpdm_cli.data.named import NAMED
from dpdm_cli.diffusion.unet import UNetConfig
from dpdm_cli.errors import UsageError
from dpdm_cli.training.config.planning import asked_for
from dpdm_cli.training.config.request import RunRequest
from dpdm_cli.training.config.settings import TrainSettings, where_large


def network_config(images: ImageSet, settings: TrainSettings) -> UNetConfig:
    """The network for these images.

    Raises:
        UsageError: images that are not square, or whose size does not divide by the network's strides; images or a
            network larger than `UNetConfig` allows.
    """
    height, width = images.size
    if height != width:
        raise UsageError(
            f"the images are {width}x{height}, the network needs square ones",
            "pass --image-size 32 to crop and resize them",
        )
    stride = settings.patch * 2 ** (len(settings.multipliers) - 1)
    if height % stride or height < stride:
        raise UsageError(
            f"the images' side is {height} pixels, this network needs a multiple of {stride}",
            f"pass --image-size {max(stride, round(height / stride) * stride)}",
        )
    attention = (height // stride,) if settings.attention is None else settings.attention
    try:
        return UNetConfig(
            image_size=height,
            image_channels=images.channels,
            classes=len(images.classes),
            channels=settings.width,
            multipliers=settings.multipliers,
            blocks=settings.blocks,
            attention=attention,
            patch=settings.patch,
            embedding=settings.embedding,
            sees_prior=settings.init == "procedural",
        )
    except ValueError as error:
        raise UsageError(
            f"no network is as large as this: {error}", "choose a smaller network, or --image-size"
        ) from error


def with_side(request: RunRequest, images: ImageSet) -> RunRequest:
    """The request with what its preset changes for images as large as these, where nothing else was asked for.

    Raises:
        UsageError: the preset has no network for images as large as these, and `patch` was not given.
    """
    asked = asked_for(request.origins)
    if "patch" in asked:
        return request
    changes, origin = where_large(request.preset, max(images.size))
    changes = {name: value for name, value in changes.items() if name not in asked}
    return replace(
        request,
        settings=replace(request.settings, **changes),
        origins={**request.origins, **dict.fromkeys(changes, origin)},
    )


def blank_images(data: str, settings: TrainSettings) -> ImageSet:
    """One black image of a named set's shape: all that its network and plan depend on."""
    facts = NAMED[data]
    side = settings.image_size or facts.image_size
    pixels = torch.zeros(1, facts.channels, side, side, dtype=torch.uint8)
    labels = torch.zeros(1, dtype=torch.int64) if facts.classes else None
    return ImageSet(name=data, images=pixels, labels=labels, classes=facts.classes)
