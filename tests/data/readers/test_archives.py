"""Zips are read in memory; hostile ones are refused before anything is decompressed."""

from __future__ import annotations

import io
import os
import stat
import struct
import tracemalloc
import zipfile

import pytest
import torch

from dpdm_cli.data import load_images
from dpdm_cli.data.readers.archives import Limits, read_archive
from dpdm_cli.errors import DataError


def refusal(path, **options) -> str:
    with pytest.raises(DataError) as caught:
        load_images(str(path), **options)
    assert str(path) in caught.value.message
    return caught.value.message


def test_a_zip_reads_like_the_folder_it_was_made_from(make_folder, make_zip, encode):
    files = {"b/1.png": encode(1), "a/2.png": encode(2), "metadata.json": b"{}"}
    folder, archive = (
        load_images(str(make_folder(files))),
        load_images(str(make_zip(list(files.items())))),
    )
    assert torch.equal(folder.images, archive.images)
    assert torch.equal(folder.labels, archive.labels)
    assert folder.classes == archive.classes


def test_a_zip_is_not_unpacked(make_zip, encode, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = make_zip([("a/1.png", encode())])
    load_images(str(path))
    assert os.listdir(tmp_path) == [path.name]


def test_clutter_of_archivers_is_ignored(make_zip, encode):
    members = [
        ("pets/a/1.png", encode()),
        ("__MACOSX/pets/a/._1.png", b"x"),
        ("pets/.DS_Store", b""),
    ]
    assert load_images(str(make_zip(members))).classes == ("a",)


def test_an_empty_class_in_a_zip_is_refused(make_zip, encode):
    assert "emus" in refusal(make_zip([("cats/1.png", encode()), ("emus/", b"")]))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil.png", "climbs out"),
        ("a/../../evil.png", "climbs out"),
        ("/etc/evil.png", "absolute"),
        ("C:/evil.png", "absolute"),
        ("a\\..\\evil.png", "backslash"),
        ("a//b.png", "empty or '.' part"),
        ("./a.png", "empty or '.' part"),
        ("inner.zip", "archive in the archive"),
        ("a/inner.tar.gz", "archive in the archive"),
        ("a/INNER.ZIP", "archive in the archive"),
    ],
)
def test_hostile_names_are_refused(make_zip, encode, name, reason):
    assert reason in refusal(make_zip([("a/1.png", encode()), (name, encode())]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "names",
    [
        ["a/1.png", "a/1.png"],
        ["a/x.png", "a/X.png"],
        ["Cats/1.png", "cats/2.png"],
        ["a/Cats/1.png", "a/cats/2.png"],
        ["a/\u00e9.png", "a/e\u0301.png"],
        ["a", "a/1.png"],
    ],
)
def test_colliding_names_are_refused(make_zip, encode, names):
    found = refusal(make_zip([("b/1.png", encode()), *((name, encode()) for name in names)]))
    assert f"{names[0]!r} occurs twice" in found


@pytest.mark.parametrize(
    ("kind", "reason"), [(stat.S_IFLNK, "symbolic link"), (stat.S_IFIFO, "neither a file")]
)
def test_links_and_devices_are_refused(tmp_path, kind, reason):
    path = tmp_path / "links.zip"
    info = zipfile.ZipInfo("a/1.png")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    assert reason in refusal(path)


def test_a_bomb_is_refused_by_its_ratio(make_zip):
    assert "-fold" in refusal(make_zip([("a.bmp", bytes(4 * 1024**2))]))


def test_a_small_blank_image_is_no_bomb(make_zip, encode):
    blank = encode(size=(500, 500), suffix="BMP")
    path = make_zip([("a.bmp", blank)])
    assert len(blank) > 200 * path.stat().st_size / 2
    assert load_images(str(path)).size == (500, 500)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(members=2), "3 members"),
        (Limits(member_bytes=10), "unpacks to"),
        (Limits(total_bytes=100), "would unpack to"),
        (Limits(ratio_from_bytes=0, ratio=0.5), "-fold"),
    ],
)
def test_each_limit_is_kept(make_zip, encode, limits, reason):
    path = make_zip([(f"{index}.png", encode()) for index in range(3)])
    with pytest.raises(DataError, match=reason):
        read_archive(path, limits)


def test_members_that_share_their_bytes_count_in_full(tmp_path):
    blank = bytes(1024**2)
    path = tmp_path / "shared.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(66):
            archive.writestr(f"{index}.bmp", blank)
    assert "200-fold" in refusal(path)


def test_a_member_longer_than_it_says_is_refused_without_decompressing_it(make_zip):
    path = make_zip([("a.bmp", b"BM" + bytes(64_000_000))])
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = struct.pack("<I", 64)
    path.write_bytes(bytes(data))
    tracemalloc.start()
    try:
        assert "a.bmp" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 32_000_000  # the process may grow by itself
    finally:
        tracemalloc.stop()


def test_a_flipped_byte_in_a_member_is_noticed(make_zip, encode):
    path = make_zip([("a.png", encode(3)), ("b.png", encode(4))])
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(bytes(data))
    assert "a.png is damaged in the archive" in refusal(path)


@pytest.mark.parametrize("keep", [0, 10, -30])
def test_a_truncated_or_empty_zip_is_refused(make_zip, encode, keep):
    path = make_zip([("a.png", encode())])
    path.write_bytes(path.read_bytes()[:keep])
    assert "cannot be read as a zip" in refusal(path)


def test_an_archive_without_images_is_refused(make_zip):
    assert "holds no image" in refusal(make_zip([("readme.txt", b"nothing")]))


def test_an_encrypted_member_is_refused(make_zip, encode):
    path = make_zip([("a.png", encode())])
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(data))
    assert "encrypted" in refusal(path)


def test_other_compressions_are_refused(tmp_path, encode):
    path = tmp_path / "lzma.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.png", encode())
    assert "other than deflate" in refusal(path)


def test_an_archive_under_an_image_name_is_refused(make_zip, encode):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a.png", encode())
    assert "is not a PNG" in refusal(make_zip([("a.png", inner.getvalue())]))
