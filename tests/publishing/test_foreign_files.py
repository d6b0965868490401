"""What lies beside, between or within the files that dpdm writes is found by `verify`, and reaches no release."""

from __future__ import annotations

import io
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image, PngImagePlugin
from support.foreign import MARK, PRETRAINED, copied, digest_again, edited, refused

from dpdm_cli import release, verify
from dpdm_cli.sampling.png import PngEncoder, _chunk
from dpdm_cli.sampling.writing import FORMATS
from dpdm_cli.training.folder.run_folder import RunFolder

PLANTED = {
    "a file": lambda home: (home / "notes.txt").write_text(MARK),
    "a hidden file": lambda home: (home / ".notes").write_text(MARK),
    "a folder": lambda home: (home / "notes").mkdir(),
    "a card": lambda home: (home / "README.md").write_text(MARK),
    "a link": lambda home: (home / "link").symlink_to(home.parent / "nowhere"),
    "a link to a folder": lambda home: (home / "link").symlink_to(home),
    "a picture": lambda home: Image.new("L", (4, 4)).save(home / "000009.png"),
    "a left-over": lambda home: (home / ".grid.png.7.part").write_text(MARK),
}


@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("name", [*FORMATS, "run"])
def test_what_is_in_no_manifest_is_refused_by_name(
    drawn: Path, run: Path, tmp_path: Path, name: str, planted: str
) -> None:
    place = run if name == "run" else copied(drawn, name, tmp_path)
    if name == "run":
        (run / "README.md").unlink()
        edited(run / "manifest.json", lambda values: values["sha256"].pop("README.md"))
        verify([run])
    PLANTED[planted](place)
    refused(place, "link" if "link" in planted else "1 entry is ")


def test_a_file_in_a_class_folder_is_refused_by_name(drawn: Path, tmp_path: Path) -> None:
    synth = copied(drawn, "png", tmp_path)
    (synth / "train" / "0" / "notes.txt").write_text(MARK)
    refused(synth, "train/0/notes.txt")


def test_sets_of_samples_and_private_files_lie_beside_a_run(run: Path, drawn: Path) -> None:
    shutil.copytree(drawn / "npz", run / "synth")
    (run / "README.md").unlink()  # a card is written by `release`, which leaves no private/
    RunFolder(run).write_manifest()
    (run / "private").mkdir()
    (run / "private" / "scores.json").write_text("{}")
    verify([run, run / "synth"])
    (run / "synth" / "metadata.json").unlink()
    refused(run, "synth")


@pytest.mark.parametrize("name", ["grid.png", "samples.png", "README.md"])
def test_a_foreign_picture_or_card_is_damage(
    drawn: Path, run: Path, tmp_path: Path, name: str
) -> None:
    if name == "grid.png":
        for number, format in enumerate((*FORMATS, "shard")):
            place = copied(drawn, format, tmp_path / str(number))
            Image.new("RGB", (40, 40), (1, 77, 3)).save(place / name)
            refused(place, name)
            (place / name).unlink()
            refused(place, name)
    else:
        (run / name).write_bytes((PRETRAINED / "statement.json").read_bytes())
        refused(run, name)


def test_samples_without_their_picture_are_damaged(drawn: Path, tmp_path: Path) -> None:
    synth = copied(drawn, "png", tmp_path)
    (synth / "grid.png").unlink()
    edited(synth / "metadata.json", lambda values: values.update(files_sha256={}))
    refused(synth, "grid.png")


def test_a_folder_of_a_model_without_a_manifest_is_none_that_was_finished(run: Path) -> None:
    (run / "manifest.json").unlink()
    with pytest.raises(Exception, match="no manifest"):
        verify([run])


def with_comment(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = MARK.encode()


def with_member(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.npy", MARK)


def with_other_metadata(path: Path) -> None:
    name = "metadata.json" if path.suffix == ".zip" else "metadata.npy"
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    members[name] = members[name].replace(b"d\0\0\0e\0\0\0f\0", b"A\0\0\0d\0\0\0a\0")
    members[name] = members[name].replace(b"default", b"Ada was")
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def with_words_in_front(path: Path) -> None:
    path.write_bytes(MARK.encode() + path.read_bytes())


def with_words_before_the_directory(path: Path) -> None:
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    end = content.rindex(b"PK\5\6")
    moved = (start + len(MARK)).to_bytes(4, "little")
    path.write_bytes(
        content[:start] + MARK.encode() + content[start : end + 16] + moved + content[end + 20 :]
    )


def with_words_in_a_member(
    path: Path, *, extra: bytes = b"\x99\x99\x0c\0" + MARK.encode(), **about: Any
) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for old, content in members:
            info = zipfile.ZipInfo(old.filename, **about)
            info.external_attr, info.compress_type = old.external_attr, old.compress_type
            info.extra = extra
            archive.writestr(info, content)


def with_dates(path: Path) -> None:
    with_words_in_a_member(path, extra=b"", date_time=(2015, 12, 10, 0, 0, 0))


@pytest.mark.parametrize(
    "change",
    [
        with_comment,
        with_member,
        with_other_metadata,
        with_words_in_front,
        with_words_before_the_directory,
        with_words_in_a_member,
        with_dates,
    ],
)
@pytest.mark.parametrize("format", ["npz", "zip"])
def test_an_archive_holds_its_images_and_their_description_and_nothing_else(
    drawn: Path, tmp_path: Path, format: str, change: Callable[[Path], None]
) -> None:
    synth = copied(drawn, format, tmp_path)
    before = (synth / f"samples.{format}").read_bytes()
    change(synth / f"samples.{format}")
    assert (synth / f"samples.{format}").read_bytes() != before
    digest_again(synth)
    refused(synth, f"samples.{format}")


def test_the_labels_in_a_zip_are_those_of_its_images(drawn: Path, tmp_path: Path) -> None:
    synth = copied(drawn, "zip", tmp_path)
    path = synth / "samples.zip"
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in members:
            archive.writestr(info, content.replace(b'"label": 3', b'"label": 4'))
    digest_again(synth)
    refused(synth, "metadata.jsonl")


def in_front_of_the_description(path: Path) -> None:
    content = path.read_bytes()
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    path.write_bytes(content[:end] + MARK.encode() + content[end:])


def columns_changed(path: Path, change: Callable[[Any], Any], **options: Any) -> None:
    written = {"compression": "none", "use_dictionary": False, "write_statistics": False, **options}
    pyarrow.parquet.write_table(change(pyarrow.parquet.read_table(path)), path, **written)


def with_a_note(table: Any) -> Any:
    return table.replace_schema_metadata({**table.schema.metadata, b"note": MARK.encode()})


def with_other_names(table: Any) -> Any:
    told = table.schema.metadata
    told[b"huggingface"] = told[b"huggingface"].replace(b'"names": ["0"', b'"names": ["Ada"')
    return table.replace_schema_metadata(told)


def with_another_label(table: Any) -> Any:
    labels = pyarrow.array([3, *table["label"].to_pylist()[1:]], pyarrow.int64())
    return table.set_column(1, "label", labels)


def with_a_text_in_an_image(table: Any) -> Any:
    rows = table.to_pylist()
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", MARK)
    content = io.BytesIO()
    Image.open(io.BytesIO(rows[0]["image"]["bytes"])).save(content, "PNG", pnginfo=notes)
    rows[0]["image"]["bytes"] = content.getvalue()
    return pyarrow.Table.from_pylist(rows, table.schema)


@pytest.mark.parametrize(
    "change",
    [
        in_front_of_the_description,
        lambda path: columns_changed(path, with_a_note),
        lambda path: columns_changed(path, with_other_names),
        lambda path: columns_changed(path, with_another_label),
        lambda path: columns_changed(path, with_a_text_in_an_image),
        lambda path: columns_changed(path, lambda table: table.slice(1)),
        lambda path: columns_changed(path, lambda table: table, use_dictionary=True),
        lambda path: columns_changed(path, lambda table: table, compression="gzip"),
        lambda path: columns_changed(path, lambda table: table, write_statistics=True),
        lambda path: columns_changed(
            path, lambda table: table.append_column("note", [[MARK] * len(table)])
        ),
    ],
    ids=[
        *("between columns and description", "a note", "other names", "another label"),
        *("text in an image", "one less", "dictionaries", "compressed", "statistics", "a column"),
    ],
)
def test_a_table_holds_its_images_and_their_description_and_nothing_else(
    drawn: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    synth = copied(drawn, "parquet", tmp_path)
    path = synth / "samples.parquet"
    before = path.read_bytes()
    change(path)
    assert path.read_bytes() != before
    digest_again(synth)
    refused(synth, "samples.parquet")


def test_what_another_pyarrow_wrote_is_read_and_said_not_to_be_checked_to_the_byte(
    drawn: Path, tmp_path: Path
) -> None:
    synth = copied(drawn, "parquet", tmp_path)
    assert not any("not checked" in line for line in verify([synth]).artefacts[0].checked)
    path = synth / "samples.parquet"
    content = path.read_bytes()
    other = re.sub(
        rb"(parquet-cpp-arrow version )\d+", lambda m: m[1] + b"9" * (len(m[0]) - 26), content
    )
    assert other != content
    path.write_bytes(other)
    digest_again(synth)
    assert any("another pyarrow" in line for line in verify([synth]).artefacts[0].checked)
    release(synth, tmp_path / "out")
    assert (tmp_path / "out" / "samples.parquet").read_bytes() == content


def with_a_text(path: Path) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", MARK)
    with Image.open(path) as picture:
        picture.save(path, pnginfo=notes)


def with_words_behind_the_pixels(path: Path) -> None:
    content = path.read_bytes()
    at = content.index(b"IDAT") + 4
    packed = content[at:-16] + zlib.compress(MARK.encode())
    path.write_bytes(content[: at - 8] + _chunk(b"IDAT", packed) + content[-12:])


def of_another_size(path: Path) -> None:
    path.write_bytes(PngEncoder((1, 5, 5)).encode(np.zeros((1, 1, 5, 5), np.uint8))[0])


@pytest.mark.parametrize(
    "change",
    [
        with_a_text,
        with_words_behind_the_pixels,
        of_another_size,
        lambda path: path.write_bytes(path.read_bytes() + MARK.encode()),
    ],
    ids=["text", "behind the pixels", "size", "behind the file"],
)
def test_an_image_file_holds_its_pixels_and_nothing_else(
    drawn: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    synth = copied(drawn, "png", tmp_path)
    image = synth / "train" / "2" / "000002.png"
    change(image)
    digest_again(synth)
    refused(synth, "000002.png")


def test_other_bytes_of_the_same_pixels_are_written_anew(drawn: Path, tmp_path: Path) -> None:
    """Compressed otherwise: by another zlib, or by somebody who hides something in the choice."""
    synth = copied(drawn, "png", tmp_path)
    image = synth / "train" / "2" / "000002.png"
    content = image.read_bytes()
    at = content.index(b"IDAT") + 4
    packed = zlib.compress(zlib.decompress(content[at:-16]), 1)
    image.write_bytes(content[: at - 8] + _chunk(b"IDAT", packed) + content[-12:])
    assert image.read_bytes() != content
    digest_again(synth)
    release(synth, tmp_path / "out")
    assert (tmp_path / "out" / "train" / "2" / "000002.png").read_bytes() == content


def test_the_record_of_a_shard_is_a_copy_of_its_description(drawn: Path, tmp_path: Path) -> None:
    synth = copied(drawn, "shard", tmp_path)
    edited(synth / ".shard-1-of-2.json", lambda values: values.update(sampler_from=MARK))
    refused(synth, ".shard-1-of-2.json")
