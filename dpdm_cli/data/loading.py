"""One call from a name or a path to a set of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dpdm_cli.choices import Split
from dpdm_cli.data.collecting import collect
from dpdm_cli.data.decoding import Fit, Pixels, planes, refit
from dpdm_cli.data.images import ImageSet
from dpdm_cli.data.listing import checked_classes, list_images
from dpdm_cli.data.named import NAMED
from dpdm_cli.data.prepare.prepared import SUFFIX, load_prepared
from dpdm_cli.files import expanded


def load_images(
    source: str | Path,
    *,
    split: Split = "train",
    data_dir: Path | None = None,
    download: bool = True,
    image_size: int | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
) -> ImageSet:
    """Load and check a whole data set.

    Args:
        source: `digits`, `mnist`, `fashion-mnist`, `cifar10`, `celeba`; or a folder or zip with one
            subfolder per class, or flat and unconditional; or an .npz file with `images` uint8 [N, H,
            W] or [N, H, W, C], optionally `labels` int64 [N], `classes` and `persons` [N], whose each
            image is; or a .parquet file of `dpdm sample`; or a .safetensors file of `dpdm prepare`,
            which is mapped and not read. A name wins over a folder of the same name: write `./mnist` for that.
        split: named sets have both; a folder or zip has a test split when it holds `train` and
            `test`.
        data_dir: where named sets are, as torchvision lays them out; by default `DPDM_DATA_DIR`, or
            else the user's cache.
        download: whether a named set that is missing may be fetched.
        image_size: side in pixels to which the centred square of every image is resized (Lanczos);
            by default images stay as they are (CelebA: 32) and must have one size.
        channels: 1 or 3; by default as the images are, which must be all grey or all colour.
        classes: names in label order. Declared, they may have no image and do not
            depend on the data; by default the sorted names of the folders, each with an
            image. An image of a class that is not declared is refused.

    Returns:
        The images in the published order (named sets) or sorted by path (others).

    Raises:
        UsageError: options that do not make sense, or that a prepared file was not made with.
        DataError: the data do not exist or cannot be used as they are; the message lists what is
            wrong.
        DamagedFileError: a prepared file is not what was written.
        ResourceError: a download failed, or there is not enough memory.
    """
    fit = Fit(image_size=image_size, channels=channels)
    path = expanded(source)
    if str(source) not in NAMED and path.suffix.lower() == SUFFIX and os.path.isfile(path):
        return load_prepared(path, split=split, fit=fit, classes=checked_classes(classes))
    listing = list_images(
        source, split=split, data_dir=data_dir, download=download, fit=fit, classes=classes
    )
    if isinstance(listing.images, np.ndarray):
        pixels = refit(listing.images, listing.fit)
    else:
        pixels = collect(listing.where, listing.images, listing.fit)
    return _image_set(listing.name, pixels, listing.labels, listing.classes, listing.persons)


def _image_set(
    name: str,
    pixels: Pixels,
    labels: NDArray[np.int64] | None,
    classes: tuple[str, ...],
    persons: NDArray[np.int64] | None,
) -> ImageSet:
    stack = planes(pixels)
    return ImageSet(
        name=name,
        images=torch.from_numpy(stack if stack.flags.writeable else stack.copy()),
        labels=None if labels is None else torch.tensor(labels),
        classes=classes,
        persons=None if persons is None else torch.from_numpy(persons),
    )
