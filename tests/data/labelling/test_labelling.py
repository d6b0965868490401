"""Labels and persons from tables and nested folders: which row belongs to which image, and what is said of the rest."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dpdm_cli.data import ImageSet, load_images
from dpdm_cli.data.reading import Reading
from dpdm_cli.errors import DataError, DpdmError, UsageError
from dpdm_cli.reporter import SilentReporter


class Watcher(SilentReporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 4), value).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "scans"


def write(root: Path, files: dict[str, int | str | bytes]) -> Path:
    """Images by their brightness, and texts."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = png(content) if isinstance(content, int) else content
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def load(root: Path, watcher: Watcher | None = None, **how: Any) -> ImageSet:
    classes = how.pop("classes", None)
    return load_images(root, classes=classes, reading=Reading(**how), reporter=watcher)


def seen(found: ImageSet) -> dict[int, str]:
    """The class of each image, by its brightness."""
    assert found.labels is not None
    brightness = found.images[:, 0, 0, 0].tolist()
    return dict(zip(brightness, [found.classes[i] for i in found.labels.tolist()], strict=True))


IMAGES = {"a/1.png": 1, "a/2.png": 2, "b/1.png": 3}
ROWS = [("a/1.png", "ill"), ("a/2.png", "well"), ("b/1.png", "well")]
LABELS = {1: "ill", 2: "well", 3: "well"}


def parquet(rows: list[tuple[str, str]], columns: tuple[str, str]) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    sink = io.BytesIO()
    values = list(zip(*rows, strict=True))
    parquet.write_table(pyarrow.table(dict(zip(columns, map(list, values), strict=True))), sink)
    return sink.getvalue()


def as_table(kind: str, rows: list[tuple[str, str]], columns: tuple[str, str]) -> bytes:
    if kind == "parquet":
        return parquet(rows, columns)
    if kind == "jsonl":
        return "\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in rows).encode()
    mark = {"csv": ",", "semicolons": ";", "tsv": "\t"}[kind]
    lines = [mark.join(f'"{cell}"' for cell in row) for row in [columns, *rows]]
    return b"\xef\xbb\xbf" + "\r\n".join(lines).encode()


@pytest.mark.parametrize("kind", ["csv", "semicolons", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("columns", [("File_Name", "label"), ("path", "Diagnosis")])
def test_a_table_of_any_kind_labels_images_in_any_order_wherever_they_lie(
    root: Path, tmp_path: Path, kind: str, columns: tuple[str, str]
) -> None:
    write(root, IMAGES)
    table = tmp_path / f"t.{'csv' if kind == 'semicolons' else kind}"
    table.write_bytes(as_table(kind, ROWS[::-1], columns))
    found = load(root, labels=str(table))
    assert found.classes == ("ill", "well")
    assert seen(found) == LABELS
    assert found.persons is None


@pytest.mark.parametrize(
    "name",
    ["x/1.png", "./x/1.png", "x\\1.png", "/data/scans/x/1.png", "1.png", "1", "x/1"],
)
def test_a_row_names_its_image_by_any_path_that_is_plain(root: Path, name: str) -> None:
    write(
        root,
        {"x/1.png": 1, "x/11.png": 2, "metadata.csv": f"file_name,label\n{name},p\n11.png,q\n"},
    )
    assert seen(load(root)) == {1: "p", 2: "q"}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_hugging_faces_table_is_found_by_itself_also_in_a_zip(root: Path, suffix: str) -> None:
    write(root, {**IMAGES, f"metadata.{suffix}": as_table(suffix, ROWS, ("file_name", "label"))})
    assert seen(load_images(root)) == LABELS
    archive = root.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(root.rglob("*.*")):
            file.write(path, path.relative_to(root))
    assert seen(load_images(archive)) == LABELS
    # Folders are classes again when that is said.
    assert seen(load(root, layout="class/image")) == {1: "a", 2: "a", 3: "b"}


def test_a_table_that_is_not_used_is_named(root: Path) -> None:
    write(root, {**IMAGES, "findings.csv": "scan,finding\n", "metadata.csv": "file_name,text\n"})
    watcher = Watcher()
    assert seen(load(root, watcher)) == {1: "a", 2: "a", 3: "b"}
    (said,) = watcher.said
    assert "findings.csv" in said
    assert "metadata.csv" in said
    assert f"--labels {root}/findings.csv" in said


def test_images_without_a_row_and_rows_without_an_image_are_listed(root: Path) -> None:
    rows = "a/1.png,p\na/2.png,\nb/1.png,q\ngone.png,q\n"
    write(root, {**IMAGES, "c/9.png": 9, "metadata.csv": f"file_name,label\n{rows}"})
    with pytest.raises(DataError) as caught:
        load(root)
    for name in ("a/2.png", "c/9.png", "gone.png"):
        assert f"\n  {name}" in caught.value.message
    assert "--skip-bad" in caught.value.hint
    watcher = Watcher()
    assert seen(load(root, watcher, skip_bad=True)) == {1: "p", 3: "q"}
    assert "a/2.png" in watcher.said[0]
    assert "gone.png" in watcher.said[1]


def test_rows_of_the_other_split_are_not_missed(root: Path) -> None:
    rows = "file_name,label\ntrain/1.png,p\ntest/2.png,q\n"
    write(root, {"train/1.png": 1, "test/2.png": 2, "metadata.csv": rows})
    watcher = Watcher()
    assert seen(load(root, watcher, classes=["p", "q"])) == {1: "p"}
    assert not watcher.said


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("1.png,p\n", "may be a/1.png or b/1.png"),
        ("a/1.png,p\na/1.png,q\n", "say different things of a/1.png"),
        ("x.png,p\n", "says nothing of any image"),
        ("a/1.png,p,more\n", "3 fields"),
        ('a/1.png,"p\n', "not CSV"),
        ("a/1.png,p/q\na/2.png,p\nb/1.png,p\n", "label of no use: 'p/q'"),
    ],
)
def test_rows_that_are_not_plain_are_refused(root: Path, rows: str, said: str) -> None:
    write(root, {**IMAGES, "metadata.csv": "file_name,label\n" + rows})
    with pytest.raises(DataError, match="(?s)" + said) as caught:
        load(root)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"scan,label\n", "no column of the files"),
        ("t.csv", b"file_name,scan\n", "no column of the labels"),
        ("t.csv", b"", "is empty"),
        ("t.csv", b"file_name,label,label\n", "two columns 'label'"),
        ("t.csv", "file_name,label\nä.png,p".encode("utf-16"), "not UTF-8"),
        ("t.jsonl", b"[1]\n", "line 1"),
        ("t.jsonl", b'{"file_name": {}, "label": "p"}', "neither text nor a number"),
        ("t.parquet", b"PAR1 no parquet PAR1", "cannot be read as parquet"),
        ("t.xlsx", b"PK", "not a table that is read"),
        ("none.csv", None, "there is no table"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_with_what_to_do(
    root: Path, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    write(root, IMAGES)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DpdmError, match=said) as caught:
        load(root, labels=str(tmp_path / name))
    assert caught.value.hint


def test_labels_that_are_numbers_are_in_the_order_of_numbers(root: Path) -> None:
    rows = "".join(f"{i}.png,{i}\n" for i in (10, 2, 1))
    write(root, {**{f"{i}.png": i for i in (10, 2, 1)}, "metadata.csv": "image,class\n" + rows})
    assert load(root).classes == ("1", "2", "10")


def test_declared_classes_are_the_order_and_others_are_refused(root: Path) -> None:
    write(root, {**IMAGES, "metadata.csv": as_table("csv", ROWS, ("file_name", "label"))})
    assert load(root, classes=["well", "unclear", "ill"]).classes == ("well", "unclear", "ill")
    with pytest.raises(DataError, match="labels that are not among the 1 declared classes: well"):
        load(root, classes=["ill"])


NESTED = {"ill/ada/1.png": 1, "ill/ada/2.png": 2, "well/ada/3.png": 3, "well/ben/4.png": 4}
PERSONS = {1: 0, 2: 0, 3: 0, 4: 1}


def persons(found: ImageSet) -> dict[int, int]:
    assert found.persons is not None
    assert found.persons.dtype.is_signed
    return dict(zip(found.images[:, 0, 0, 0].tolist(), found.persons.tolist(), strict=True))


@pytest.mark.parametrize("outer", ["", "hospital/", "train/", "hospital/train/"])
@pytest.mark.parametrize("layout", ["class/person/image", "person/class/image"])
def test_nested_folders_say_class_and_person(root: Path, layout: str, outer: str) -> None:
    swapped = {f"{b}/{a}/{c}": v for (a, b, c), v in ((n.split("/"), v) for n, v in NESTED.items())}
    files = NESTED if layout == "class/person/image" else swapped
    write(root, {outer + name: value for name, value in files.items()})
    found = load(root, layout=layout)
    assert found.classes == ("ill", "well")
    assert seen(found) == {1: "ill", 2: "ill", 3: "well", 4: "well"}
    assert persons(found) == PERSONS


def test_persons_are_from_a_column_or_from_folders_beside_a_table(root: Path) -> None:
    rows = [f"{n.split('/')[2]},{n.split('/')[0]},{n.split('/')[1]}" for n in NESTED]
    table = "file_name,label,patient\n" + "\n".join(rows)
    write(root, {f"{n.split('/')[1]}/{n.split('/')[2]}": v for n, v in NESTED.items()})
    write(root, {"metadata.csv": table})
    assert persons(load(root, person_column="patient")) == PERSONS
    assert persons(load(root, layout="person/image")) == PERSONS
    assert load(root).persons is None
    # Labels from folders, persons from a table that has none.
    write(root, {"metadata.csv": table.replace("label", "remark")})
    found = load(root, person_column="patient")
    assert found.classes == ("ada", "ben")
    assert persons(found) == PERSONS


def test_persons_are_numbered_without_gaps_when_all_images_of_one_are_left_out(root: Path) -> None:
    write(root, {"x/ada/1.png": b"", "x/ben/2.png": 2, "y/cleo/3.png": 3})
    watcher = Watcher()
    assert persons(load(root, watcher, layout="class/person/image", skip_bad=True)) == {2: 0, 3: 1}
    assert "x/ada/1.png is empty" in watcher.said[0]


@pytest.mark.parametrize(
    "how",
    [
        {"layout": "class/image"},
        {"layout": "class/person/image", "files": {"ill/5.png": 5}},
        {"layout": "class/person/image", "files": {"ill/ada/x/5.png": 5}},
        {"layout": "person/class/image"},
        {"layout": "person/image/class"},
        {"layout": "class/image", "labels": "t.csv"},
        {"layout": "person/image", "person_column": "p"},
        {"person_column": "p"},
        {"label_column": "p"},
        {},
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_do(root: Path, how: dict[str, Any]) -> None:
    files = how.pop("files", {})
    write(root, {**NESTED, "well/cleo/6.png": 6, **files})
    with pytest.raises((DataError, UsageError)) as caught:
        load(root, **how)
    assert caught.value.hint


def test_named_sets_arrays_and_prepared_files_have_no_tables(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 4, 4), np.uint8))
    for source in ("digits", tmp_path / "x.npz"):
        for how in ({"labels": "t.csv"}, {"window": (0.0, 1.0)}, {"layout": "class/image"}):
            with pytest.raises(UsageError, match="not a folder or zip"):
                load(source, **how)
