"""Public facts of the named data sets. Imports no torch and opens no file.

The sizes are published with the sets, so a privacy plan may be built from them before any image is
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dpdm_cli.choices import Split


@dataclass(frozen=True, kw_only=True)
class NamedSet:
    """Public facts about a data set.

    Attributes:
        train_size, test_size: images in each split.
        channels: 1 (grey) or 3 (colour).
        image_size: side of an image in pixels, as `load_images` delivers it by default.
        classes: names in label order, usable as folder names; empty when the set is unconditional.
        files: what has to be below the data folder, as torchvision lays it out; empty when
            bundled.
        homepage: where the files can be downloaded by hand.
    """

    name: str
    train_size: int
    test_size: int
    channels: int
    image_size: int
    classes: tuple[str, ...]
    files: tuple[str, ...] = ()
    homepage: str = ""

    def size(self, split: Split) -> int:
        """Number of images in `split`."""
        return self.train_size if split == "train" else self.test_size


_DIGITS = tuple(str(digit) for digit in range(10))
_IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_GARMENTS = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)
_OBJECTS = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_CELEBA_TABLES = (
    "list_attr_celeba.txt",
    "identity_CelebA.txt",
    "list_bbox_celeba.txt",
    "list_landmarks_align_celeba.txt",
    "list_eval_partition.txt",
)

_SETS = (
    NamedSet(
        name="digits",
        train_size=1438,
        test_size=359,
        channels=1,
        image_size=8,
        classes=_DIGITS,
        homepage="https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html",
    ),
    NamedSet(
        name="mnist",
        train_size=60_000,
        test_size=10_000,
        channels=1,
        image_size=28,
        classes=_DIGITS,
        files=tuple(f"MNIST/raw/{name}" for name in _IDX),
        homepage="https://ossci-datasets.s3.amazonaws.com/mnist/ (each as .gz: unpack it)",
    ),
    NamedSet(
        name="fashion-mnist",
        train_size=60_000,
        test_size=10_000,
        channels=1,
        image_size=28,
        classes=_GARMENTS,
        files=tuple(f"FashionMNIST/raw/{name}" for name in _IDX),
        homepage="https://github.com/zalandoresearch/fashion-mnist (each as .gz: unpack it)",
    ),
    NamedSet(
        name="cifar10",
        train_size=50_000,
        test_size=10_000,
        channels=3,
        image_size=32,
        classes=_OBJECTS,
        files=(
            *(f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)),
            "cifar-10-batches-py/test_batch",
            "cifar-10-batches-py/batches.meta",
        ),
        homepage="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz (unpack it)",
    ),
    NamedSet(
        name="celeba",
        train_size=162_770,
        test_size=19_962,
        channels=3,
        image_size=32,
        classes=(),
        files=(
            "celeba/img_align_celeba",
            *(f"celeba/{name}" for name in _CELEBA_TABLES),
        ),
        homepage="http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (unpack img_align_celeba.zip)",
    ),
)

NAMED: Mapping[str, NamedSet] = MappingProxyType({facts.name: facts for facts in _SETS})
