"""The images of a tree with their labels and persons, from its folders, from a table, or one from each.

Names of persons end here: what goes on are numbers, by which images are grouped, and digests in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpdm_cli.choices import Split
from dpdm_cli.data.class_names import class_order
from dpdm_cli.data.labelling.matching import Matched, listed, match
from dpdm_cli.data.labelling.tables import Table, read_table
from dpdm_cli.data.layout import Entry, Layout, Tree, arrange, gather, tables_in
from dpdm_cli.data.reading import Reading
from dpdm_cli.errors import DataError, UsageError
from dpdm_cli.files import expanded, read_bytes
from dpdm_cli.reporter import Reporter

Numbers = NDArray[np.int64]

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""What Hugging Face calls the table of a folder of images."""

FILE_COLUMNS = ("file_name", "filename", "image", "path")
LABEL_COLUMNS = ("class", "label", "diagnosis")
"""Names before numbers: who writes both, as `dpdm sample` does into a zip, numbers the classes in `label`."""

_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Labelled:
    """Images of one split, sorted by path.

    Attributes:
        entries: their files.
        labels: int64 [N] with values in [0, len(classes)), or None when unconditional.
        classes: names in label order.
        persons: int64 [N], the number of the person of each image, from 0 on; None when persons are not known.
        person_digests: of each person's name, by number.
    """

    entries: list[Entry]
    labels: Numbers | None
    classes: tuple[str, ...]
    persons: Numbers | None
    person_digests: tuple[bytes, ...]


@dataclass(frozen=True)
class _Use:
    """A table and what is taken from it; columns are None for what comes from elsewhere."""

    table: Table
    entry: Entry | None
    files: str
    labels: str | None
    persons: str | None

    @property
    def columns(self) -> list[str]:
        return [column for column in (self.labels, self.persons) if column is not None]

    @property
    def in_words(self) -> str:
        """Which column says what."""
        found = {"files": self.files, "labels": self.labels, "persons": self.persons}
        return ", ".join(f"{what} from column {name!r}" for what, name in found.items() if name)


def label(
    path: Path,
    tree: Tree,
    split: Split,
    classes: Sequence[str] | None,
    reading: Reading,
    reporter: Reporter,
) -> Labelled:
    """Find the images of a split, what they show and whom they are of.

    Args:
        path: where the tree is, for messages.
        tree: all files.
        split: which split.
        classes: the declared names in label order; None takes those of the folders or of the table.
        reading: which table or layout.
        reporter: hears which table is used and which are not, and what is left out.

    Raises:
        UsageError: columns without a table, or a table that is none.
        DataError: see `arrange` and `match`; images without a label, where they are not to be left out.
        ResourceError: parquet cannot be read here.
    """
    tables = tables_in(tree)
    use = _named_table(path, tables, reading) if reading.labels else _found_table(tables, reading)
    _warn_unused(path, tables, use, reporter)
    if use is None:
        for name in ("label_column", "file_column", "person_column"):
            if getattr(reading, name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} is given, and {path} has no table",
                    f"Name it by --labels FILE; one of {', '.join(METADATA)} beside the images is found by itself.",
                )
        return _numbered(arrange(tree, split, classes, reading.layout))
    if use.labels is None:
        layout = arrange(tree, split, classes, reading.layout)
    elif reading.layout is not None:
        layout = arrange(tree, split, None, reading.layout)
    else:
        layout = gather(tree, split)
    reporter.note(f"{use.table.name} is used: {use.in_words}")
    matched = match(use.table, use.files, use.columns, layout.entries)
    _check_rows(use, tree, matched, layout, reading, reporter)
    return _joined(use, matched, layout, classes)


def _named_table(path: Path, tables: list[Entry], reading: Reading) -> _Use:
    """The table of `--labels`: a file, or one in the folder or zip."""
    name = str(reading.labels)
    file = expanded(name)
    inside = [entry for entry in tables if name in ("/".join(entry.path), f"./{entry}")]
    entry = None
    if os.path.isfile(file):
        data = read_bytes(file, _MOST_BYTES)
        entry = next((e for e in tables if _is_same(path.joinpath(*e.path), file)), None)
    elif inside:
        entry = inside[0]
        data = entry.read()
    else:
        raise DataError(
            f"there is no table {name}", "Give the path of a CSV, jsonl or parquet file."
        )
    table = read_table(name, data)
    files = table.column(reading.file_column, FILE_COLUMNS)
    labels = table.column(reading.label_column, LABEL_COLUMNS)
    persons = table.column(reading.person_column, ())
    if files is None:
        raise _no_column(table, "the files", "file", FILE_COLUMNS)
    if labels is None and persons is None:
        raise _no_column(table, "the labels", "label", LABEL_COLUMNS)
    return _Use(table, entry, files, labels, persons)


def _found_table(tables: list[Entry], reading: Reading) -> _Use | None:
    """Hugging Face's table, the innermost, if it says what is needed."""
    found = [entry for entry in tables if entry.name.lower() in METADATA]
    for entry in reversed(found):
        try:
            table = read_table(str(entry), entry.read())
        except OSError as error:
            raise DataError(f"{entry} cannot be read: {error}", "Check its permissions.") from None
        files = table.column(reading.file_column, FILE_COLUMNS)
        labels = None
        if "class" not in reading.levels:
            labels = table.column(reading.label_column, LABEL_COLUMNS)
        persons = table.column(reading.person_column, ())
        if files is not None and (labels or persons):
            return _Use(table, entry, files, labels, persons)
        if reading.person_column or reading.label_column:
            raise _no_column(table, "the files", "file", FILE_COLUMNS)
    return None


def _warn_unused(path: Path, tables: list[Entry], use: _Use | None, reporter: Reporter) -> None:
    unused = [entry for entry in tables if use is None or entry is not use.entry]
    if unused:
        names = listed([str(entry) for entry in unused])
        reporter.warn(
            f"tables in {path} that are not used:\n{names}\n"
            f"if the labels stand in one, name it: --labels {path / str(unused[0])}, with --file-column and "
            f"--label-column unless its columns are called {', '.join(FILE_COLUMNS)} and {', '.join(LABEL_COLUMNS)}"
        )


def _check_rows(
    use: _Use,
    tree: Tree,
    matched: Matched,
    layout: Layout,
    reading: Reading,
    reporter: Reporter,
) -> None:
    """Say which rows and images have no counterpart, and refuse the latter unless they are left out."""
    there = {str(entry) for entry in tree.entries} if matched.surplus else set()
    surplus = [name for name in matched.surplus if name not in there]  # of another split
    missing = [str(layout.entries[index]) for index in matched.missing]
    rows = ""
    if surplus:
        rows = f"rows of {use.table.name} that name no image ({len(surplus):,}):\n{listed(surplus)}"
    columns = " and ".join(map(repr, use.columns))
    images = (
        f"images without {columns} in {use.table.name} ({len(missing):,} of {len(layout.entries):,}):\n"
        f"{listed(missing)}"
    )
    if missing and not reading.skip_bad:
        raise DataError(
            "\n".join(filter(None, [images, rows])),
            "Complete the table, or leave out these images with --skip-bad."
            + ("" if reading.labels else " Or take labels from folders: --layout class/image."),
        )
    if missing:
        reporter.warn(f"left out: {images}")
    if rows:
        reporter.warn(rows)


def _joined(use: _Use, matched: Matched, layout: Layout, classes: Sequence[str] | None) -> Labelled:
    """The images that have a row, with what stands in it."""
    kept = [index for index, found in enumerate(matched.values) if found is not None]
    rows = [found for found in matched.values if found is not None]
    chosen = replace(
        layout,
        entries=[layout.entries[index] for index in kept],
        labels=None if layout.labels is None else [layout.labels[index] for index in kept],
        persons=None if layout.persons is None else [layout.persons[index] for index in kept],
    )
    if use.persons is not None:
        chosen = replace(chosen, persons=[row[-1] for row in rows])
    if use.labels is not None:
        names = _in_order({row[0] for row in rows})
        order = class_order(use.table.name, names, classes, "label")
        index = {name: place for place, name in enumerate(order)}
        chosen = replace(chosen, labels=[index[row[0]] for row in rows], classes=order)
    return _numbered(chosen)


def _numbered(layout: Layout) -> Labelled:
    persons, digests = None, tuple[bytes, ...]()
    if layout.persons is not None:
        names = sorted({*layout.persons})
        number = {name: place for place, name in enumerate(names)}
        persons = np.array([number[name] for name in layout.persons], np.int64)
        digests = tuple(blake2b(os.fsencode(name)).digest() for name in names)
    labels = None if layout.labels is None else np.array(layout.labels, np.int64)
    return Labelled(layout.entries, labels, layout.classes, persons, digests)


def _in_order(names: Iterable[str]) -> list[str]:
    """Sorted: as numbers if all are whole numbers, else as text."""
    found = sorted(names)
    return sorted(found, key=int) if all(name.isdecimal() for name in found) else found


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _no_column(table: Table, what: str, kind: str, usual: Sequence[str]) -> DataError:
    return DataError(
        f"{table.name} has no column of {what}: none is called {', '.join(usual)}",
        f"Name it by --{kind}-column. {table.columns_in_words()}",
    )
