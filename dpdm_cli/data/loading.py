"""One call from a name or a path to a set of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dpdm_cli.choices import Split
from dpdm_cli.data.collecting import collect
from dpdm_cli.data.decoding import Fit, Pixels, planes, refit
from dpdm_cli.data.images import ImageSet
from dpdm_cli.data.listing import Listing, check_no_files, checked_classes, list_images
from dpdm_cli.data.named import NAMED
from dpdm_cli.data.prepare.prepared import SUFFIX, load_prepared
from dpdm_cli.data.reading import Reading
from dpdm_cli.files import expanded
from dpdm_cli.reporter import Reporter, SilentReporter


def load_images(
    source: str | Path,
    *,
    split: Split = "train",
    data_dir: Path | None = None,
    download: bool = True,
    image_size: int | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    reading: Reading | None = None,
    reporter: Reporter | None = None,
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
        reading: how files are read: labels from a table, persons from nested folders, a window for more than 8 bits,
            whether files that cannot be used are left out.
        reporter: hears which tables are used and not used, and what is left out.

    Returns:
        The images in the published order (named sets) or sorted by path (others).

    Raises:
        UsageError: options that do not make sense, or that a prepared file was not made with.
        DataError: the data do not exist or cannot be used as they are; the message lists what is
            wrong.
        DamagedFileError: a prepared file is not what was written.
        ResourceError: a download failed, or there is not enough memory.
    """
    window = None if reading is None else reading.window
    fit = Fit(image_size=image_size, channels=channels, window=window)
    reporter = reporter or SilentReporter()
    path = expanded(source)
    if str(source) not in NAMED and path.suffix.lower() == SUFFIX and os.path.isfile(path):
        check_no_files(str(source), replace(reading or Reading(), window=None), Fit())
        found = load_prepared(path, split=split, fit=fit, classes=checked_classes(classes))
        part = found.storage.facts.held_out if found.storage else None
        if part is not None and part.is_held_out:
            reporter.warn(
                f"{source} is what was held out to test on; to train on is {part.other} beside it"
            )
        return found
    listing = list_images(
        source,
        split=split,
        data_dir=data_dir,
        download=download,
        fit=fit,
        classes=classes,
        reading=reading,
        reporter=reporter,
    )
    if isinstance(listing.images, np.ndarray):
        return _image_set(listing, refit(listing.images, listing.fit))
    pixels, kept = collect(listing.where, listing.images, listing.fit, reading, reporter)
    return _image_set(listing if len(kept) == len(listing) else listing.part(kept), pixels)


def _image_set(listing: Listing, pixels: Pixels) -> ImageSet:
    stack = planes(pixels)
    labels, persons = listing.labels, listing.persons
    return ImageSet(
        name=listing.name,
        images=torch.from_numpy(stack if stack.flags.writeable else stack.copy()),
        labels=None if labels is None else torch.tensor(labels),
        classes=listing.classes,
        persons=None if persons is None else torch.tensor(persons),
    )
