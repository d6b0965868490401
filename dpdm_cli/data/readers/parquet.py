"""Images in one parquet file, in the columns that Hugging Face's `datasets` reads: image files, and labels with names.

Only what is written here is read: uncompressed and without dictionaries, so that no file takes more memory than its own
size allows.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dpdm_cli.data.class_names import check_classes
from dpdm_cli.data.collecting import check_memory
from dpdm_cli.data.images import check_labels, renamed
from dpdm_cli.data.layout import Entry
from dpdm_cli.errors import DamagedFileError, DataError, UsageError
from dpdm_cli.stored import Json, parse_json

NOTES = "dpdm"
"""The key of what a file says of all its images."""

_FEATURES = "huggingface"
ROWS = 256
"""Of a group, which readers take at a time."""

_MEMORY = 1 << 31  # bytes, if every image at a time were as large as the file
_HINT = "Expected a file of `dpdm sample --format parquet`; draw the images again, or give a folder, a zip or an .npz."


def arrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet. Raises UsageError: they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(
            "parquet files need pyarrow, which is not installed",
            "pip install 'dpdm-cli[parquet]', or choose another format",
        ) from None
    return pyarrow, pyarrow.parquet


def schema_of(classes: Sequence[str], notes: str) -> Any:
    """The columns of a file, with what `datasets` is told of them.

    Args:
        classes: names in label order; none for images without labels.
        notes: text about all images.

    Returns:
        A pyarrow.Schema of `image`, the bytes and the name of a PNG file, and `label`, int64.
    """
    pa, _ = arrow()
    columns = {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})}
    features: Json = {"image": {"_type": "Image"}}
    if classes:
        columns["label"] = pa.int64()
        features["label"] = {"names": [*classes], "_type": "ClassLabel"}
    told = json.dumps({"info": {"features": features}})
    return pa.schema(columns, metadata={_FEATURES: told, NOTES: notes})


@dataclass(frozen=True)
class Row:
    """An image file, its name and its label; None without labels."""

    content: bytes
    name: str
    label: int | None


class ImageTableWriter:
    """Writes images into an open file, which the same release of pyarrow fills with the same bytes.

    Args:
        file: for bytes, at its beginning.
        classes, notes: see `schema_of`.
    """

    def __init__(self, file: IO[bytes] | RawIOBase, classes: Sequence[str], notes: str) -> None:
        self._arrow, parquet = arrow()
        self._schema = schema_of(classes, notes)
        self._writer = parquet.ParquetWriter(
            file, self._schema, compression="none", use_dictionary=False, write_statistics=False
        )

    def __enter__(self) -> ImageTableWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def put(self, rows: Sequence[Row]) -> None:
        """Write a group: `ROWS` images, or the last ones."""
        columns: dict[str, list[Any]] = {
            "image": [{"bytes": row.content, "path": row.name} for row in rows],
            "label": [row.label for row in rows],
        }
        chosen = {name: columns[name] for name in self._schema.names}
        self._writer.write_table(self._arrow.Table.from_pydict(chosen, self._schema), len(rows))


class ImageTable:
    """An open file of images.

    Attributes:
        schema: see `schema_of`.
        classes: names in label order; empty without labels.
        notes: what it says of all its images.
        is_of_this_release: whether pyarrow as it is here says it wrote it.

    Raises, every method: DataError: it is none, or damaged.
    """

    def __init__(self, path: Path) -> None:
        pa, parquet = arrow()
        self._path = path
        with self._whole():
            self._file = parquet.ParquetFile(path)
            self.schema = self._file.schema_arrow
            self.is_of_this_release = self._file.metadata.created_by == _written_by(pa)
            told = self.schema.metadata or {}
            self.notes = told.get(NOTES.encode(), b"").decode()
            self.classes = self._class_names(told)
            if not self.schema.equals(schema_of(self.classes, "")):
                raise ValueError("its columns are not an image and a label")
            self._check_columns()

    def __enter__(self) -> ImageTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def rows(self) -> Iterator[Row]:
        """Every image, in order."""
        with self._whole():
            left = self._path.stat().st_size
            at_a_time = max(1, min(ROWS, _MEMORY // left))
            for batch in self._file.iter_batches(at_a_time, use_threads=False):
                for row in batch.to_pylist():
                    found = Row(row["image"]["bytes"], row["image"]["path"], row.get("label"))
                    is_labelled = isinstance(found.label, int) or not self.classes
                    if not (isinstance(found.content, bytes) and isinstance(found.name, str)):
                        raise ValueError("an image is missing")
                    if not is_labelled:
                        raise ValueError("a label is missing")
                    left -= len(found.content)
                    if left < 0:
                        raise ValueError("it unpacks to more than it is")
                    yield found

    def _class_names(self, told: dict[bytes, bytes]) -> tuple[str, ...]:
        if "label" not in self.schema.names:
            return ()
        info: Any = parse_json(told.get(_FEATURES.encode(), b""), "what it says of its columns")
        return check_classes(info["info"]["features"]["label"]["names"])

    def _check_columns(self) -> None:
        metadata = self._file.metadata
        for group in range(metadata.num_row_groups):
            for column in range(metadata.num_columns):
                found = metadata.row_group(group).column(column)
                if found.compression != "UNCOMPRESSED" or found.has_dictionary_page:
                    raise ValueError("it is compressed")

    @contextmanager
    def _whole(self) -> Iterator[None]:
        pa, _ = arrow()
        try:
            yield
        except (
            *(pa.ArrowException, OSError, ValueError, OverflowError, DamagedFileError),
            *(LookupError, TypeError, AttributeError),
        ) as error:
            raise DataError(
                f"{self._path} cannot be read as a parquet file of images: {str(error)[:200]}",
                _HINT,
            ) from None


@dataclass(frozen=True)
class Table:
    """The images of a file, in memory and not decoded.

    Attributes:
        entries: an image each.
        labels: int64 [N] with values in [0, len(classes)), or None.
        classes: names in label order, empty when there are no labels.
    """

    entries: list[Entry]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]


def read_parquet(path: Path, classes: Sequence[str] | None) -> Table:
    """Read the images of a file and their labels.

    Args:
        classes: the declared names in label order, to which labels are carried over by name.

    Raises:
        DataError: not a file of `dpdm sample`, no image, labels out of range, classes for a file without labels.
        ResourceError: more than the memory holds.
        UsageError: pyarrow is not installed.
    """
    with ImageTable(path) as table:
        check_memory(str(path), path.stat().st_size)
        rows = list(table.rows())
        known = table.classes
    if not rows:
        raise DataError(f"{path} holds no image", _HINT)
    source = _Contents([row.content for row in rows])
    entries = [Entry((), f"image {at}", source, at) for at in range(len(rows))]
    if not known:
        if classes is not None:
            raise DataError(f"{len(classes)} classes are declared, but {path} has no labels", _HINT)
        return Table(entries, None, ())
    labels = np.array([row.label for row in rows], np.int64)
    check_labels(str(path), labels, len(rows), len(known))
    order = known if classes is None else tuple(classes)
    if known != order:
        labels = renamed(str(path), labels, known, order)
    return Table(entries, labels, order)


def _written_by(pa: Any) -> str:
    return f"parquet-cpp-arrow version {pa.cpp_version}"


class _Contents:
    """Files in memory, by `Entry.at`."""

    def __init__(self, contents: list[bytes]) -> None:
        self._contents = contents

    def read(self, entry: Entry) -> bytes:
        return self._contents[entry.at]

    def facts(self, entry: Entry) -> str:
        content = self._contents[entry.at]
        return f"{len(content)} {zlib.crc32(content)}"
