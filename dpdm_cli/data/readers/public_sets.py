"""The pixels and labels of a named set: scikit-learn's digits, the others through torchvision.

A data folder is only ever added to: existing files are neither written nor removed, and a download
goes to a separate folder beside them, from where complete files are moved to their places.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpdm_cli.choices import Split
from dpdm_cli.data.decoding import Pixels
from dpdm_cli.data.layout import Entry
from dpdm_cli.data.named import NamedSet
from dpdm_cli.data.readers.folders import Files
from dpdm_cli.errors import DataError, ResourceError
from dpdm_cli.files import expanded, network_timeout

_TIMEOUT = 60.0  # seconds without a byte
_CLASSES = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "celeba": "CelebA",
}
"""What torchvision calls them."""

Loaded = tuple[Pixels | list[Entry], NDArray[np.int64] | None]


def default_data_dir() -> Path:
    """`DPDM_DATA_DIR`, or else the user's cache."""
    import platformdirs

    stated = os.environ.get("DPDM_DATA_DIR")
    if stated:
        return expanded(stated)
    return platformdirs.user_cache_path("dpdm", appauthor=False) / "data"


def read_named(facts: NamedSet, split: Split, folder: Path, download: bool) -> Loaded:
    """One split of a named set.

    Args:
        facts: which set.
        folder: where the files are, or will be put.
        download: whether files that are missing may be fetched.

    Returns:
        uint8 [N, H, W] or [N, H, W, 3], or files where the set is one of files; and int64 [N], or
        None when it has no classes. N is the published size.

    Raises:
        DataError: files are missing and may not be fetched, are damaged, or are of another size.
        ResourceError: the download failed, or torchvision does not work here.
    """
    if facts.name == "digits":
        images, labels = _digits(split)
    else:
        _provide(facts, folder, download)
        images, labels = _from_torchvision(facts, split, folder)
    if len(images) != facts.size(split):
        raise DataError(
            f"{facts.name} has {facts.size(split)} images in its {split} split, "
            f"found {len(images)} in {folder}",
            f"The files are damaged or of another set. {_wanted(facts, folder)}",
        )
    return images, labels


def _digits(split: Split) -> Loaded:
    """scikit-learn's 8x8 digits; every fifth image (index 4, 9, 14, ...) is the test split.

    The set has no official split. One by index is the same everywhere and for ever, whatever the
    version of a random generator; and which split an image is in depends on its index alone, not
    on the other images. Both splits hold every class; the test split 21 to 52 images of each.
    """
    from sklearn.datasets import load_digits

    bundled = load_digits()
    pixels = np.rint(bundled.images * (255 / 16)).astype(np.uint8)  # 0..16 to 0..255
    labels = bundled.target.astype(np.int64)
    test = np.arange(len(pixels)) % 5 == 4
    chosen = test if split == "test" else ~test
    return pixels[chosen], labels[chosen]


def _torchvision() -> ModuleType:
    try:
        import torchvision.datasets
    except (ImportError, RuntimeError, OSError) as error:
        raise ResourceError(
            f"torchvision cannot be imported: {error}",
            "Its version must fit torch's: install the two together, from the same index.",
        ) from None
    module: ModuleType = torchvision.datasets
    return module


def _from_torchvision(facts: NamedSet, split: Split, folder: Path) -> Loaded:
    datasets = _torchvision()
    try:
        if facts.name == "celeba":
            dataset = datasets.CelebA(folder, split=split, download=False)
            return _celeba(dataset, folder), None
        if facts.name == "cifar10":
            # torchvision compares the checksums before it opens these files, which are pickles.
            dataset = datasets.CIFAR10(folder, train=split == "train", download=False)
            return np.ascontiguousarray(dataset.data), np.array(dataset.targets, np.int64)
        return _idx(datasets, facts, split, folder)
    except Exception as error:
        # torchvision answers damaged files with exceptions of many types.
        raise DataError(
            f"{facts.name} cannot be read from {folder}: {error}",
            f"Files are damaged: remove them. {_wanted(facts, folder)}",
        ) from None


def _idx(datasets: Any, facts: NamedSet, split: Split, folder: Path) -> Loaded:
    # Read file by file: the data set class would prefer a tensor cached by torch.save, if there
    # is one.
    first = 0 if split == "train" else 2
    images, labels = (str(folder / name) for name in facts.files[first : first + 2])
    pixels = datasets.mnist.read_image_file(images).numpy()
    targets = datasets.mnist.read_label_file(labels).numpy().astype(np.int64)
    if pixels.shape[1:] != (facts.image_size, facts.image_size) or len(pixels) != len(targets):
        raise ValueError(f"images are {list(pixels.shape)}, labels {list(targets.shape)}")
    return pixels, targets


def _celeba(dataset: Any, folder: Path) -> list[Entry]:
    """178x218 photographs, of which the centred 178x178 squares are wanted."""
    photographs = Files(folder / "celeba" / "img_align_celeba")
    return [Entry((), name, photographs) for name in dataset.filename]


def _provide(facts: NamedSet, folder: Path, download: bool) -> None:
    missing = [name for name in facts.files if not (folder / name).exists()]
    if not missing:
        return
    if not download:
        raise DataError(
            f"{facts.name} is not in {folder}: {len(missing)} of {len(facts.files)} files are "
            f"missing, the first is {missing[0]}",
            f"Allow the download, name the right --data-dir, or fetch the files by hand. "
            f"{_wanted(facts, folder)}",
        )
    datasets = _torchvision()
    try:
        with _staging(folder) as staging, network_timeout(_TIMEOUT):
            getattr(datasets, _CLASSES[facts.name])(staging, download=True)
            for name in missing:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(staging / name, folder / name)
    except Exception as error:
        # urllib, gdown, tarfile and the disk fail in ways of their own.
        raise ResourceError(
            f"downloading {facts.name} to {folder} failed: {error}", _wanted(facts, folder)
        ) from None


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder beside the final places, so that files move there in one step, and whole."""
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".download-", dir=folder))
    try:
        yield staging
    finally:
        with suppress(OSError):
            shutil.rmtree(staging)


def _wanted(facts: NamedSet, folder: Path) -> str:
    if not facts.files:
        return "Install scikit-learn again: the set is part of it."
    return f"Wanted in {folder}: {', '.join(facts.files)}. They are at {facts.homepage}"
