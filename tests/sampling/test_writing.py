from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpdm_cli.data import load_images
from dpdm_cli.errors import DamagedFileError, DataError
from dpdm_cli.sampling import writing
from dpdm_cli.sampling.album import Album
from dpdm_cli.sampling.png import Pixels, PngEncoder
from dpdm_cli.sampling.writing import FORMATS, Format, ImageSink, open_sink

METADATA = {"kind": "test", "n": 30}


def album(n: int = 30, channels: int = 1, cycle: tuple[int, ...] = (0, 1, 2)) -> Album:
    classes = ("cat", "dog", "Äffchen") if cycle else ()
    return Album(n=n, shape=(channels, 6, 5), classes=classes, cycle=cycle)


def pixels(album: Album, seed: int = 0) -> Pixels:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (album.n, *album.shape), dtype=np.uint8)


def fill(format: Format, folder: Path, album: Album, images: Pixels, step: int = 7) -> str:
    """Write all batches, last first, and finish. Returns the digest."""
    sink = open_sink(format, folder, album)
    try:
        for start in reversed(range(0, album.n, step)):
            sink.put(start, images[start : start + step])
        digest = sink.finish(METADATA)
        sink.discard()
        return digest
    finally:
        sink.close()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("cycle", [(0, 1, 2), ()], ids=["classes", "unconditional"])
@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_is_read_back_with_its_classes(
    tmp_path: Path, format: Format, cycle: tuple[int, ...], channels: int
) -> None:
    what = album(channels=channels, cycle=cycle)
    images = pixels(what)
    fill(format, tmp_path, what, images)
    read = load_images(
        tmp_path if format == "png" else tmp_path / f"samples.{format}",
        classes=what.classes or None,
    )
    written = {
        (image.tobytes(), what.label(index) if cycle else None)
        for index, image in enumerate(images)
    }
    labels = read.labels.tolist() if read.labels is not None else [None] * what.n
    found = {
        (image.numpy().tobytes(), label) for image, label in zip(read.images, labels, strict=True)
    }
    assert len(written) == len(read.images) == what.n
    assert found == written
    assert read.classes == what.classes


@pytest.mark.parametrize("format", FORMATS)
def test_a_digest_tells_images_apart_and_not_the_batches_they_came_in(
    tmp_path: Path, format: Format
) -> None:
    digests = []
    for name, seed, step in (("a", 0, 7), ("b", 0, 30), ("c", 1, 7)):
        (tmp_path / name).mkdir()
        digests.append(fill(format, tmp_path / name, album(), pixels(album(), seed), step))
    assert digests[0] == digests[1] != digests[2]


def test_the_digest_of_png_files_is_that_of_sha256sum(tmp_path: Path) -> None:
    digest = fill("png", tmp_path, album(), pixels(album()))
    files = sorted(tmp_path.glob("train/*/*.png"), key=lambda p: p.relative_to(tmp_path).as_posix())
    lines = "".join(
        f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(tmp_path).as_posix()}\n"
        for f in files
    )
    assert digest == hashlib.sha256(lines.encode()).hexdigest()


def test_the_digest_of_one_file_is_its_sha256(tmp_path: Path) -> None:
    digest = fill("npz", tmp_path, album(), pixels(album()))
    assert digest == hashlib.sha256((tmp_path / "samples.npz").read_bytes()).hexdigest()


@pytest.mark.parametrize("format", FORMATS)
def test_only_batches_that_were_put_whole_count_and_another_sink_sees_them(
    tmp_path: Path, format: Format
) -> None:
    what, images = album(), pixels(album())
    sink = open_sink(format, tmp_path, what)
    sink.put(7, images[7:14])
    sink.flush()
    sink.close()
    again = open_sink(format, tmp_path, what)
    assert [again.whole(s, min(s + 7, what.n)) for s in range(0, what.n, 7)] == [
        0, 7, 0, 0, 0,
    ]  # fmt: skip
    assert np.array_equal(again.read(9), images[9])
    again.close()


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "gone", "another image's size"])
def test_a_damaged_png_makes_its_batch_incomplete(tmp_path: Path, damage: str) -> None:
    what = album()
    fill("png", tmp_path, what, pixels(what))
    victim = tmp_path / what.member(8)
    content = victim.read_bytes()
    if damage == "gone":
        victim.unlink()
    elif damage == "another image's size":
        larger = np.zeros((1, 1, 7, 5), np.uint8)
        victim.write_bytes(PngEncoder((1, 7, 5)).encode(larger)[0])
    else:
        flipped = content[:45] + bytes([content[45] ^ 1]) + content[46:]
        victim.write_bytes({"cut": content[:-5], "flipped": flipped, "emptied": b""}[damage])
    sink = open_sink("png", tmp_path, what)
    assert sink.whole(7, 14) == 1
    assert sink.whole(0, 7) == 7
    sink.close()


@pytest.mark.parametrize("format", ["npz", "zip"])
def test_damage_to_raw_pixels_or_a_cut_journal_makes_the_batch_incomplete(
    tmp_path: Path, format: Format
) -> None:
    what, images = album(), pixels(album())
    sink = open_sink(format, tmp_path, what)
    for start in (0, 7, 14):
        sink.put(start, images[start : start + 7])
    raw, journal = tmp_path / ".samples.raw", tmp_path / ".samples.sha256"
    content = bytearray(raw.read_bytes())
    content[8 * 30] ^= 1  # in image 8
    raw.write_bytes(content)
    journal.write_bytes(journal.read_bytes()[:-20])  # within the line of 14
    again = open_sink(format, tmp_path, what)
    assert [again.whole(s, s + 7) for s in (0, 7, 14)] == [7, 0, 0]
    again.put(14, images[14:21])
    assert open_sink(format, tmp_path, what).whole(14, 21) == 7


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_file_is_damage_to_a_finished_set(tmp_path: Path, format: Format) -> None:
    what = album()
    fill(format, tmp_path, what, pixels(what))
    (tmp_path / (what.member(3) if format == "png" else f"samples.{format}")).unlink()
    sink = open_sink(format, tmp_path, what)
    with pytest.raises(DamagedFileError) as caught:
        sink.digest()
    assert "after they were drawn" in caught.value.hint
    sink.close()


@pytest.mark.parametrize("format", FORMATS)
def test_a_finished_set_leaves_nothing_else_behind(tmp_path: Path, format: Format) -> None:
    what = album()
    (tmp_path / "train" / "cat").mkdir(parents=True)
    left_over = ".000000.png.7.part"
    (tmp_path / "train" / "cat" / left_over).write_bytes(b"left over")
    fill(format, tmp_path, what, pixels(what))
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    if format == "png":
        assert files == {what.member(i) for i in range(what.n)}
    else:
        assert files == {f"samples.{format}", f"train/cat/{left_over}"}


def test_two_that_write_one_image_do_not_write_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system has no locks, nothing else keeps half an image from being moved to its place."""
    what, images, replace = album(n=3), pixels(album(n=3)), os.replace
    seen = []

    def watched(source: str, target: str) -> None:
        seen.append(source)
        replace(source, target)

    monkeypatch.setattr(writing.os, "replace", watched)
    for process in (7, 8):
        monkeypatch.setattr(writing.os, "getpid", lambda process=process: process)
        fill("png", tmp_path, what, images)
    assert len(set(seen)) == 6


def test_a_class_that_gets_no_image_gets_no_folder(tmp_path: Path) -> None:
    what = album(n=2)
    fill("png", tmp_path, what, pixels(what))
    assert {p.name for p in (tmp_path / "train").iterdir()} == {"cat", "dog"}


@pytest.mark.parametrize("format", ["npz", "zip"])
def test_one_file_carries_its_metadata_and_no_date(tmp_path: Path, format: Format) -> None:
    fill(format, tmp_path, album(), pixels(album()))
    path = tmp_path / f"samples.{format}"
    with zipfile.ZipFile(path) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        if format == "zip":
            text = archive.read("metadata.json").decode()
            assert {info.external_attr >> 16 for info in archive.infolist()} == {0o644}
    if format == "npz":
        with np.load(path, allow_pickle=False) as arrays:
            text = str(arrays["metadata"])
    assert json.loads(text) == METADATA


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_raises_and_what_was_written_stays_whole(
    tmp_path: Path, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    what, images = album(), pixels(album())
    sink = open_sink(format, tmp_path, what)
    sink.put(0, images[:7])
    sink.flush()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def put_and_wait(sink: ImageSink) -> None:
        sink.put(7, images[7:14])
        sink.flush()

    def refuse(*args: object, **kwargs: object) -> None:
        raise full

    with monkeypatch.context() as patch:
        if format == "png":
            patch.setattr(writing.os, "replace", refuse)
        else:
            patch.setattr(Path, "open", refuse)
        with pytest.raises(OSError, match="No space left"):
            put_and_wait(sink)
    sink.close()
    again = open_sink(format, tmp_path, what)
    assert again.whole(0, 7) == 7
    assert again.whole(7, 14) < 7
    assert not list(tmp_path.rglob("*.part"))
    again.close()


def test_more_batches_than_may_wait_are_all_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_MOST_WAITING", 1)
    what = album(n=60)
    fill("png", tmp_path, what, pixels(what), step=2)
    assert len(list(tmp_path.rglob("*.png"))) == 60


@pytest.mark.parametrize(
    "classes",
    [
        ("a", "../up"),
        ("a", "b/c"),
        ("a", "b\\c"),
        ("a", ".hidden"),
        ("a", ""),
        ("a", "A"),
        ("a", "x" * 300),
    ],
)
def test_classes_that_cannot_be_folders_are_refused_where_folders_are_needed(
    tmp_path: Path, classes: tuple[str, str]
) -> None:
    what = Album(n=4, shape=(1, 2, 2), classes=classes, cycle=(0, 1))
    for format in ("png", "zip"):
        with pytest.raises(DataError, match="folder"):
            open_sink(format, tmp_path, what)
    fill("npz", tmp_path, what, pixels(what))
    assert load_images(tmp_path / "samples.npz", classes=None).labels is not None


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5, 9), (1, 1, 1), (3, 1, 2)])
def test_png_files_hold_their_pixels_to_the_bit(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, *shape), dtype=np.uint8)
    images[0], images[1] = 0, 255
    encoder = PngEncoder(shape)
    for image, content in zip(images, encoder.encode(images), strict=True):
        assert encoder.is_whole(content)
        assert np.array_equal(encoder.decode(content), image)
        with Image.open(io.BytesIO(content)) as opened:
            assert (opened.format, opened.mode) == ("PNG", "L" if shape[0] == 1 else "RGB")
            read = np.asarray(opened)
        expected = image[0] if shape[0] == 1 else image.transpose(1, 2, 0)
        assert np.array_equal(read, expected)
