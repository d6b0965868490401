"""A set of images. Does not know where it came from, nor what it will be used for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpdm_cli.data.duplicates import digests_of, repeated
from dpdm_cli.errors import DataError

if TYPE_CHECKING:
    from dpdm_cli.data.prepare.prepared import PreparedFile


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size with their classes, in the memory of the CPU or mapped from a file.

    Attributes:
        name: short name for messages. For a user's own folder it is that folder's name, which may
            be private: it must not be part of anything that is published.
        images: uint8 [N, C, H, W], C is 1 (grey) or 3 (colour), N at least 1. Those of a file must
            not be written to, which would end the process.
        labels: int64 [N] with values in [0, len(classes)), or None when unconditional.
        classes: names in label order; empty exactly when `labels` is None. A class may have no
            image.
        content: SHA-256 of images and labels when it is known without reading them, else None.
        duplicates: how many images equal an earlier one when it is known, else None.
        storage: the file that `images` is mapped from; None for images in memory.
        persons: int64 [N], the person each image is of, by numbers from 0 to P-1 that stand for no name; None when
            persons are not known.

    Raises:
        DataError: the tensors do not fit together, there is no image, or a label is out of range.
    """

    name: str
    images: Tensor
    labels: Tensor | None
    classes: tuple[str, ...]
    content: str | None = None
    duplicates: int | None = None
    storage: PreparedFile | None = field(default=None, repr=False)
    persons: Tensor | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise DataError(
                f"{self.name}: expected images as uint8 [N, 1 or 3, H, W], "
                f"found {images.dtype} {list(images.shape)}"
            )
        if images.numel() == 0:
            raise DataError(f"{self.name} holds no image", "A data set needs at least one image.")
        if (labels is None) != (not self.classes):
            raise DataError(
                f"{self.name}: labels and class names go together, found only one of them"
            )
        if labels is not None:
            check_labels(self.name, labels.numpy(), len(images), len(self.classes))
        if self.persons is not None:
            check_persons(self.name, self.persons.numpy(), len(images))

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (colour)."""
        return int(self.images.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.images.shape[2]), int(self.images.shape[3])

    def rows(self, indices: Tensor) -> Tensor:
        """Some of the images, in memory of their own.

        The way to read batches of a set that is larger than the memory: of a mapped set, what was
        read does not stay in the memory of the process, as it does when `images` is indexed.

        Args:
            indices: int64 [B] with values in [0, N), on the CPU.

        Returns:
            uint8 [B, C, H, W].

        Raises:
            IndexError: an index is out of range.
            DamagedFileError: the file cannot be read any more.
        """
        if self.storage is not None:
            return self.storage.rows(indices)
        return self.images.index_select(0, indices)

    def in_memory(self) -> ImageSet:
        """The same images, none of them mapped: they may be used whole while their file is cut.

        Raises:
            DamagedFileError: the file cannot be read any more.
        """
        if self.storage is None:
            return self
        everyone = torch.arange(len(self.images))
        return replace(self, images=self.storage.rows(everyone), storage=None)

    def verify(self) -> None:
        """Read the whole file that the images are mapped from, and compare it with what was written.

        Images in memory have nothing to be compared with.

        Raises:
            DamagedFileError: the file is not what was written.
        """
        if self.storage is not None:
            self.storage.verify()


def check_labels(name: str, labels: NDArray[np.integer], images: int, classes: int) -> None:
    """Refuse labels that do not belong to `images` images of `classes` classes.

    Raises:
        DataError: another shape than [images], another type than int64, a value outside [0,
            classes).
    """
    if labels.shape != (images,) or labels.dtype != np.int64:
        raise DataError(
            f"{name}: expected labels as int64 [{images}], "
            f"found {labels.dtype} {list(labels.shape)}",
            "One label for each image, in the same order.",
        )
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if outside.size:
        first = int(outside[0])
        raise DataError(
            f"{name}: {outside.size} labels are outside 0..{classes - 1}; "
            f"the first is {int(labels[first])} at image {first}",
            f"{classes} classes are declared: declare more, or correct the labels.",
        )


def check_persons(name: str, persons: NDArray[np.integer], images: int) -> None:
    """Refuse numbers of persons that do not belong to `images` images.

    Raises:
        DataError: another shape than [images], another type than int64, or not all numbers from 0 on.
    """
    if persons.shape != (images,) or persons.dtype != np.int64:
        raise DataError(
            f"{name}: expected persons as int64 [{images}], found {persons.dtype} {list(persons.shape)}",
            "One number for each image, in the same order.",
        )
    known = np.unique(persons)
    if known[0] != 0 or known[-1] != len(known) - 1:
        raise DataError(f"{name}: persons are not numbered from 0 on without a gap", "Number them.")


def renamed(
    name: str, labels: NDArray[np.int64], known: Sequence[str], order: Sequence[str]
) -> NDArray[np.int64]:
    """Labels for classes in another order, some of which may have no image.

    Args:
        name: what the labels are from, for messages.
        labels: int64 [N], with values in [0, len(known)).
        known: class names of these labels.
        order: the names that are declared.

    Raises:
        DataError: an image is of a class that is not among them.
    """
    used = [known[label] for label in np.unique(labels)]
    unknown = [found for found in used if found not in order]
    if unknown:
        raise DataError(
            f"{name} has images of classes that are not declared: {', '.join(unknown[:10])}",
            "Declare them too, or leave out the classes to take the file's own.",
        )
    places = {found: place for place, found in enumerate(order)}
    return np.array([places.get(found, -1) for found in known], np.int64)[labels]


def duplicate_count(images: ImageSet) -> int:
    """How many images equal an earlier one, pixel for pixel, whatever their labels.

    A picture that is in the set twice is protected only half as well: the two copies count as two
    records, while the guarantee is for one.
    """
    if images.duplicates is not None:
        return images.duplicates
    return repeated(digests_of(images.images.contiguous().numpy()))[0]
