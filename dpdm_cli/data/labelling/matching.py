"""Which row of a table belongs to which image."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from posixpath import splitext

from dpdm_cli.data.labelling.tables import Table
from dpdm_cli.data.layout import Entry, Parts
from dpdm_cli.errors import DataError

SHOWN = 20


@dataclass(frozen=True)
class Matched:
    """What a table says of images.

    Attributes:
        values: for each image those of the columns asked for; None for an image without a row, or with an empty cell.
        surplus: what rows name that is not there.
    """

    values: list[tuple[str, ...] | None]
    surplus: list[str]

    @property
    def missing(self) -> list[int]:
        """Images that the table says nothing of."""
        return [index for index, found in enumerate(self.values) if found is None]


def match(table: Table, file_column: str, columns: Sequence[str], images: list[Entry]) -> Matched:
    """Find the row of each image.

    A row names an image by its path, or by the last parts of it, or by a path that ends in the image's; with or
    without the end of the file's name.

    Args:
        table: with a row for each image, in any order.
        file_column: the column of the names of files.
        columns: what is wanted.
        images: entries.

    Raises:
        DataError: a row names several images, or rows of one image contradict each other; no row names any.
    """
    files = _Files(images)
    values: list[tuple[str, ...] | None] = [None] * len(images)
    numbers: dict[int, int] = {}
    surplus: list[str] = []
    for number, (name, *found) in table.rows((file_column, *columns)):
        if not name:
            continue
        found_in = files.find(name)
        if len(found_in) > 1:
            raise DataError(
                f"{table.name}, row {number}: {name!a} may be {images[found_in[0]]} or {images[found_in[1]]}",
                "Write the path of the file, from the folder of the images on.",
            )
        if not found_in:
            surplus.append(name)
            continue
        index, row = found_in[0], tuple(found)
        if index in numbers and values[index] not in (None, row) and all(row):
            raise DataError(
                f"{table.name}: rows {numbers[index]} and {number} say different things of {images[index]}",
                "Keep one of them.",
            )
        if all(row):
            values[index], numbers[index] = row, number
    if images and not numbers:
        named = f"its first row names {surplus[0]!a}" if surplus else "no row has both"
        raise DataError(
            f"{table.name} says nothing of any image: {named} (column {file_column!r}), the first image is {images[0]}",
            f"Name the column of the files by --file-column. {table.columns_in_words()}",
        )
    return Matched(values, surplus)


class _Files:
    """Images by the names that a table may give them."""

    def __init__(self, images: list[Entry]) -> None:
        self._images = images
        self._by_name: dict[str, list[int]] = {}
        self._by_stem: dict[str, list[int]] = {}
        for index, image in enumerate(images):
            name = _normal(image.name)
            self._by_name.setdefault(name, []).append(index)
            self._by_stem.setdefault(splitext(name)[0], []).append(index)

    def find(self, text: str) -> list[int]:
        """Those that may be meant: one, if the text says it plainly."""
        parts = tuple(
            part for part in _normal(text).replace("\\", "/").split("/") if part not in ("", ".")
        )
        if not parts:
            return []
        for names in (self._by_name, self._by_stem):
            fitting = [i for i in names.get(parts[-1], ()) if self._fits(parts[:-1], i)]
            if len(fitting) > 1:
                fitting = [i for i in fitting if self._folder(i) == parts[:-1]] or fitting
            if fitting:
                return fitting
        return []

    def _folder(self, index: int) -> Parts:
        return tuple(map(_normal, self._images[index].folder))

    def _fits(self, parts: Parts, index: int) -> bool:
        if not parts:
            return True
        folder = self._folder(index)
        shared = min(len(parts), len(folder))
        return not shared or parts[-shared:] == folder[-shared:]


def _normal(text: str) -> str:
    """As systems may write the same name."""
    return unicodedata.normalize("NFC", text)


def listed(names: Sequence[str]) -> str:
    """The first 20 names, one a line, and how many more there are."""
    lines = [f"  {name if name.isprintable() else ascii(name)}" for name in names[:SHOWN]]
    if len(names) > SHOWN:
        lines.append(f"  and {len(names) - SHOWN:,} more")
    return "\n".join(lines)
