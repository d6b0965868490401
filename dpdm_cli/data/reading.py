"""How the files of somebody's own set are to be read: said by its owner, never found out from pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict, get_args

from dpdm_cli.choices import FolderLayout
from dpdm_cli.errors import UsageError


class ListingOptions(TypedDict, total=False):
    """What the images of a set are labelled by, as keywords of a function; see `Reading`."""

    labels: Path | str | None
    label_column: str | None
    file_column: str | None
    person_column: str | None
    layout: FolderLayout | None


class ReadingOptions(ListingOptions, total=False):
    """The same with what pixels are read by."""

    window: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the files of a folder or zip are read.

    Attributes:
        labels: a table (CSV, jsonl, parquet) with a row for each image; None takes `metadata.csv`, `.jsonl` or
            `.parquet` beside the images if it holds labels, else the folders.
        label_column, file_column: of the table; None guesses by the usual names.
        person_column: the column that says whom an image is of.
        layout: what the names of nested folders stand for; None is one folder a class, or none.
        window: the values that become 0 and 255, of images with more than 8 bits; in the units of DICOM's rescaled
            values where there are such.
        skip_bad: leave out files that cannot be used, and images that the table does not know.

    Raises:
        UsageError: another layout than there is.
    """

    labels: str | None = None
    label_column: str | None = None
    file_column: str | None = None
    person_column: str | None = None
    layout: FolderLayout | None = None
    window: tuple[float, float] | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if self.layout is not None and self.layout not in get_args(FolderLayout):
            raise UsageError(
                f"layout is {self.layout!r}", f"choose one of {', '.join(get_args(FolderLayout))}"
            )
        if self.labels is not None and "class" in self.levels:
            raise UsageError(
                f"labels are asked for from a table and, by --layout {self.layout}, from folders",
                "Leave out one of them; --layout person/image takes persons from folders and labels from the table.",
            )
        if self.person_column is not None and "person" in self.levels:
            raise UsageError(
                f"persons are asked for from a table and, by --layout {self.layout}, from folders",
                "Leave out --person-column, or the layout.",
            )

    @property
    def levels(self) -> tuple[str, ...]:
        """What each level of folders stands for, `class` or `person`; empty when it is not said."""
        return () if self.layout is None else tuple(self.layout.split("/")[:-1])

    def given(self) -> dict[str, Any]:
        """What was said, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}


def reading_of(options: Mapping[str, Any], skip_bad: bool = False) -> Reading:
    """How files are read by `ReadingOptions`; what else is among the options is left alone.

    Raises:
        UsageError: see `Reading`.
    """
    own = {name: options.get(name) for name in ReadingOptions.__annotations__}
    if own["labels"] is not None:
        own["labels"] = str(own["labels"])
    if own["window"] is not None:
        low, high = own["window"]
        own["window"] = float(low), float(high)
    return Reading(skip_bad=skip_bad, **own)
