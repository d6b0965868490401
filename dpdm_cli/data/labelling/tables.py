"""A table of a user's own as columns of text. Knows files; neither images nor what the columns stand for."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from posixpath import splitext
from typing import Any

from dpdm_cli.errors import DamagedFileError, DataError, ResourceError, UsageError
from dpdm_cli.stored import Json, parse_json

_DELIMITED = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_MOST_ROWS, _MOST_BYTES = (
    20_000_000,
    1 << 31,
)  # of a parquet file, which says how many before they are read

Row = tuple[int, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table, not yet taken apart.

    Attributes:
        name: of the file, for messages.
        columns: their names, as they are written.
    """

    name: str
    columns: tuple[str, ...]
    _data: Any
    _kind: str

    def column(self, wanted: str | None, usual: Sequence[str]) -> str | None:
        """Which column is asked for, or has one of the usual names, the first of them that there is.

        Raises:
            DataError: there is none of the name that is asked for.
        """
        if wanted is not None:
            if wanted not in self.columns:
                raise DataError(f"{self.name} has no column {wanted!r}", self.columns_in_words())
            return wanted
        by_name = {column.strip().casefold(): column for column in reversed(self.columns)}
        return next((by_name[name] for name in usual if name in by_name), None)

    def columns_in_words(self) -> str:
        """For messages."""
        return f"Its columns are {', '.join(map(repr, self.columns[:20]))}."

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Number of each row, as editors show it, and its values in some columns, blanks at their ends removed.

        Raises:
            DataError: a row cannot be read, or holds something else than text and numbers there.
        """
        read = {"parquet": self._of_parquet, "jsonl": self._of_lines}.get(self._kind, self._of_csv)
        for number, values in read(columns):
            texts = []
            for name, value in zip(columns, values, strict=True):
                text = _text(value)
                if text is None:
                    raise DataError(
                        f"{self.name}, row {number}: {name!r} holds neither text nor a number",
                        "Name another column.",
                    )
                texts.append(text)
            yield number, tuple(texts)

    def _of_csv(self, columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        reader = csv.reader(io.StringIO(self._data, newline=""), delimiter=self._kind, strict=True)
        places = [self.columns.index(name) for name in columns]
        try:
            next(reader)
            for row in reader:
                if len(row) > len(self.columns) and any(row[len(self.columns) :]):
                    raise DataError(
                        f"{self.name}, row {reader.line_num}: {len(row)} fields, but {len(self.columns)} columns",
                        "Put fields that hold the delimiter into quotes.",
                    )
                if row:
                    yield (
                        reader.line_num,
                        [row[place] if place < len(row) else "" for place in places],
                    )
        except csv.Error as error:
            raise DataError(
                f"{self.name}, row {reader.line_num}: not CSV: {error}", "Save it as CSV again."
            ) from None

    def _of_lines(self, columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        for number, line in _objects(self.name, self._data):
            yield number, [line.get(name) for name in columns]

    def _of_parquet(self, columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        try:
            found = self._data.read(columns=list(columns))
            values = [found.column(name).to_pylist() for name in columns]
        except Exception as error:  # of a dozen types
            raise _no_parquet(self.name, error) from None
        yield from ((number, list(row)) for number, row in enumerate(zip(*values, strict=True), 1))


def read_table(name: str, data: bytes) -> Table:
    """A CSV (comma, semicolon or tab, UTF-8), jsonl or parquet file, by the end of its name.

    Args:
        name: for messages.
        data: the whole file.

    Raises:
        UsageError: another kind of file.
        DataError: it cannot be read, or has no columns.
        ResourceError: it is parquet, and pyarrow is not installed.
    """
    suffix = splitext(name.lower())[1]
    if suffix == ".parquet":
        return _parquet(name, data)
    if suffix not in (*_DELIMITED, ".jsonl"):
        raise UsageError(
            f"{name} is not a table that is read", "Save it as CSV (UTF-8), jsonl or parquet."
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{name} is not UTF-8 text", "Save it as CSV in UTF-8.") from None
    if suffix == ".jsonl":
        first = next(_objects(name, text), (0, {}))[1]
        return _checked(Table(name=name, columns=tuple(first), _data=text, _kind="jsonl"))
    header = text.split("\n", 1)[0]
    # What programs write where a comma is the decimal point.
    delimiter = max((_DELIMITED[suffix], ",", ";", "\t"), key=header.count)
    try:
        columns = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    except csv.Error as error:
        raise DataError(f"{name} is not CSV: {error}", "Save it as CSV again.") from None
    columns = [column.strip() for column in columns]
    # Blanks around names in the header are not part of them.
    return _checked(Table(name=name, columns=tuple(columns), _data=text, _kind=delimiter))


def _parquet(name: str, data: bytes) -> Table:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ResourceError(
            f"{name} is parquet, which pyarrow reads", "pip install 'dpdm-cli[parquet]'"
        ) from None
    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        about = file.metadata
        groups = range(about.num_row_groups)
        size = sum(about.row_group(group).total_byte_size for group in groups)
        columns = tuple(file.schema_arrow.names)
    except Exception as error:  # of a dozen types
        raise _no_parquet(name, error) from None
    if about.num_rows > _MOST_ROWS or size > _MOST_BYTES:
        raise DataError(
            f"{name} has {about.num_rows:,} rows in {size:,} bytes, more than is read",
            "Give a table of file names and labels alone.",
        )
    return _checked(Table(name=name, columns=columns, _data=file, _kind="parquet"))


def _checked(table: Table) -> Table:
    if not table.columns:
        raise DataError(f"{table.name} is empty", "A table begins with the names of its columns.")
    if len({*table.columns}) < len(table.columns):
        twice = next(name for name in table.columns if table.columns.count(name) > 1)
        raise DataError(f"{table.name} has two columns {twice!r}", "Rename one of them.")
    return table


def _no_parquet(name: str, error: Exception) -> DataError:
    return DataError(f"{name} cannot be read as parquet: {str(error)[:200]}", "Write it again.")


def _objects(name: str, text: str) -> Iterator[tuple[int, Json]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, dict(parse_json(line, f"{name}, line {number}"))
            except DamagedFileError as error:
                raise DataError(error.message, "Each line is one JSON object.") from None


def _text(value: object) -> str | None:
    """What stands in a cell; None for what is neither text nor a number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # whole numbers, in a column that has gaps
    return str(value) if isinstance(value, bool | int | float) else None
