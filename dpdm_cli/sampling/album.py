"""Which images a set has, what each is called and of which class it is. Knows names; no pixel and no file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from dpdm_cli.data.class_names import is_class_name
from dpdm_cli.data.readers.parquet import Row
from dpdm_cli.errors import DataError

TRAIN = "train"
"""The folder of all images, which loaders take for the split of that name."""

TABLE = "metadata.jsonl"
"""The member of a zip that lists its images and their labels, by the name that `datasets` looks for."""

_LONGEST_NAME = 200  # bytes; file systems allow 255


@dataclass(frozen=True, kw_only=True)
class Album:
    """Which images a set has, and their names.

    Attributes:
        n: number of images of the whole set.
        shape: (C, H, W) of each; C is 1 or 3.
        classes: names in label order; empty when unconditional.
        cycle: image i has the class `cycle[i % len(cycle)]`; empty when unconditional.
        marked: whether PNG files carry `XMP_MARK`.
        part: indices, in order, of those that belong here; None for all.
    """

    n: int
    shape: tuple[int, int, int]
    classes: tuple[str, ...] = ()
    cycle: tuple[int, ...] = ()
    marked: bool = False
    part: Sequence[int] | None = None

    @property
    def indices(self) -> Sequence[int]:
        """The images that belong here."""
        return range(self.n) if self.part is None else self.part

    def label(self, index: int) -> int:
        """The class of image `index`."""
        return self.cycle[index % len(self.cycle)]

    def member(self, index: int) -> str:
        """Where image `index` lies in a folder or zip; slashes separate folders.

        Class folders lie in one folder, and nothing else does: where other images lie beside them, or deeper, loaders
        that take labels from folders take none.
        """
        return f"{self._folder(self.label(index) if self.cycle else None)}/{self.name(index)}"

    def name(self, index: int) -> str:
        """What image `index` is called, wherever it lies."""
        return f"{index:06d}.png"

    def row(self, index: int, content: bytes) -> Row:
        """Image `index` in a table."""
        return Row(content, self.name(index), self.label(index) if self.cycle else None)

    def table(self) -> bytes:
        """Names and labels of all images as a zip holds them, for the `imagefolder` of `datasets`.

        Without, that one takes labels from no folder in a zip, and its other members for images:
        github.com/huggingface/datasets/pull/8419.
        """
        return "".join(json.dumps(self._line(index)) + "\n" for index in self.indices).encode()

    def _line(self, index: int) -> dict[str, object]:
        line: dict[str, object] = {"file_name": self.member(index)}
        if self.cycle:
            label = self.label(index)
            line |= {"label": label, "class": self.classes[label]}
        return line

    def folders(self) -> set[str]:
        """Those that have an image here; that of any other class would be empty, which ImageFolder refuses."""
        labels = {self.label(i) for i in self.indices} if self.cycle else {None}
        return set(map(self._folder, labels))

    def _folder(self, label: int | None) -> str:
        return TRAIN if label is None else f"{TRAIN}/{self.classes[label]}"

    def check_names(self) -> None:
        """Refuse classes that can't be folders on every system.

        Raises:
            DataError: slashes, leading dots, names that are too long or differ in case only.
        """
        for name in self.classes:
            if not is_class_name(name) or len(name.encode()) > _LONGEST_NAME:
                raise DataError(
                    f"the class {name[:80]!a} can't be the name of a folder",
                    "choose --format npz, which needs no folders",
                )
        if len({name.casefold() for name in self.classes}) < len(self.classes):
            raise DataError(
                "two classes differ only in case, which some systems take for one folder",
                "choose --format npz, which needs no folders",
            )
