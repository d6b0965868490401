"""One call from a name or a path to images in memory. Knows which reader reads what, no more."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dpdm_cli.data.archives import read_archive
from dpdm_cli.data.arrays import read_arrays
from dpdm_cli.data.collecting import collect
from dpdm_cli.data.decoding import Fit, Pixels, refit
from dpdm_cli.data.folders import read_folder
from dpdm_cli.data.images import ImageSet
from dpdm_cli.data.layout import Tree, arrange, is_class_name
from dpdm_cli.data.named import NAMED, NamedSet, Split
from dpdm_cli.data.public_sets import default_data_dir, read_named
from dpdm_cli.errors import DataError, UsageError


def load_images(
    source: str | Path,
    *,
    split: Literal["train", "test"] = "train",
    data_dir: Path | None = None,
    download: bool = True,
    image_size: int | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
) -> ImageSet:
    """Load and check a whole data set.

    Args:
        source: `digits`, `mnist`, `fashion-mnist`, `cifar10`, `celeba`; or a folder or zip with one
            subfolder a class, or flat and unconditional; or an .npz file with `images` uint8 [N, H,
            W] or [N, H, W, C], optionally `labels` int64 [N] and `classes`. A name wins over a
            folder of the same name: write `./mnist` for that.
        split: named sets have both; a folder or zip has a test split when it holds `train` and
            `test`.
        data_dir: where named sets lie, as torchvision lays them out; by default `DPDM_DATA_DIR`, or
            else the user's cache.
        download: whether a named set that is missing may be fetched.
        image_size: side in pixels to which the centred square of every image is resized (Lanczos);
            by default images stay as they are (CelebA: 32) and must have one size.
        channels: 1 or 3; by default as the images are, which must be all grey or all colour.
        classes: names in label order. Declared, they may have no image and keep the classes from
            being a fact of the data; by default the sorted names of the folders, each with an
            image.

    Returns:
        The images in the published order (named sets) or sorted by path (others).

    Raises:
        UsageError: options that make no sense.
        DataError: the data are not there or cannot be used as they are; the message lists what is
            wrong.
        ResourceError: a download failed, or there is not enough memory.
    """
    if split not in ("train", "test"):
        raise UsageError(f"split must be train or test, found {split!r}")
    fit = Fit(image_size=image_size, channels=channels)
    declared = _checked_classes(classes)
    name = str(source)
    if name in NAMED:
        facts = NAMED[name]
        _check_own_classes(facts, declared)
        return _named(facts, split, data_dir, download, fit)
    path = Path(os.path.expanduser(name))
    # os.path answers no where pathlib raises: for names too long, or below what may not be entered.
    if not name or not os.path.exists(path):
        raise _nothing_there(name)
    if os.path.isdir(path):
        return _from_tree(path, read_folder(path), split, declared, fit)
    suffix = path.suffix.lower()
    if os.path.isfile(path) and suffix == ".npz":
        return _from_arrays(path, split, declared, fit)
    if os.path.isfile(path) and (suffix == ".zip" or zipfile.is_zipfile(path)):
        return _from_tree(path, read_archive(path), split, declared, fit)
    raise DataError(
        f"{path} is neither a folder, a zip nor an .npz file",
        f"Give one of these, or one of {', '.join(NAMED)}. A single image goes into a folder.",
    )


def _named(
    facts: NamedSet, split: Split, data_dir: Path | None, download: bool, fit: Fit
) -> ImageSet:
    if facts.name == "celeba" and fit.image_size is None:
        fit = Fit(image_size=facts.image_size, channels=fit.channels)
    folder = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    pixels, labels = read_named(facts, split, folder, download, fit)
    return _image_set(facts.name, pixels, labels, facts.classes)


def _from_tree(
    path: Path, tree: Tree, split: Split, classes: tuple[str, ...] | None, fit: Fit
) -> ImageSet:
    layout = arrange(tree, split, classes)
    pixels = collect(str(path), layout.entries, fit)
    labels = None if layout.labels is None else np.array(layout.labels, np.int64)
    return _image_set(_short(path), pixels, labels, layout.classes)


def _from_arrays(path: Path, split: Split, classes: tuple[str, ...] | None, fit: Fit) -> ImageSet:
    if split == "test":
        raise DataError(f"{path} has no test split", "Name the file that holds the test images.")
    arrays = read_arrays(path, classes)
    return _image_set(_short(path), refit(arrays.pixels, fit), arrays.labels, arrays.classes)


def _image_set(
    name: str, pixels: Pixels, labels: NDArray[np.int64] | None, classes: tuple[str, ...]
) -> ImageSet:
    planes = pixels[:, None] if pixels.ndim == 3 else np.moveaxis(pixels, 3, 1)
    if not (planes.flags.c_contiguous and planes.flags.writeable):
        planes = planes.copy(order="C")
    return ImageSet(
        name=name,
        images=torch.from_numpy(planes),
        labels=None if labels is None else torch.tensor(labels),
        classes=classes,
    )


def _short(path: Path) -> str:
    return path.resolve().stem


def _checked_classes(classes: Sequence[str] | None) -> tuple[str, ...] | None:
    if classes is None:
        return None
    names = tuple(classes)
    if not names or isinstance(classes, str) or len(set(names)) != len(names):
        raise UsageError(
            f"classes must be different names, found {classes!r}", "For example: cats, dogs."
        )
    odd = [name for name in names if not is_class_name(name)]
    if odd:
        raise UsageError(
            f"class names must be usable as folder names, found {odd[0]!r}",
            "They are printable, without slash or backslash, and do not begin with a dot.",
        )
    return names


def _check_own_classes(facts: NamedSet, classes: tuple[str, ...] | None) -> None:
    if classes is not None and classes != facts.classes:
        own = ", ".join(facts.classes) or "none: it is unconditional"
        raise UsageError(
            f"{facts.name} has its own classes ({own}), found {', '.join(classes)}",
            "Leave out the classes for a named set.",
        )


def _nothing_there(name: str) -> DataError:
    close = get_close_matches(name.lower().replace("_", "-"), NAMED, n=1, cutoff=0.6)
    if close:
        return DataError(f"there is no data set or path {name!r}", f"Did you mean {close[0]}?")
    return DataError(
        f"there is no data set or path {name!r}",
        f"Give one of {', '.join(NAMED)}, or the path of a folder, zip or .npz file.",
    )
