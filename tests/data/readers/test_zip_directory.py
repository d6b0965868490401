"""The directory of a zip is read as zipfile reads it, and damage in it is always one kind of error."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dpdm_cli.data.readers.archives import Archive, read_archive
from dpdm_cli.data.readers.zip_directory import Directory
from dpdm_cli.errors import DataError

MEMORY_OF_READING = """
import sys, tracemalloc
from pathlib import Path
from dpdm_cli.data.readers.archives import read_archive
tracemalloc.start()
tree = read_archive(Path(sys.argv[1]))
print(len(tree.entries), *tracemalloc.get_traced_memory())
"""
FILES = {"a/1.png": b"one" * 20, "a/\u00e9.png": b"two", "b/3.png": bytes(range(64)) * 6}


class Stream(io.RawIOBase):
    """A pipe: sizes come behind the bytes."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.content += bytes(data)
        return len(data)


def archive(kind: str) -> bytes:
    plain, pipe = io.BytesIO(), Stream()
    target = pipe if kind == "streamed" else plain
    if kind == "behind a program":
        plain.write(b"#!/bin/sh\nexit\n" * 10)
    method = zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(target, "w", method) as writer:
        writer.writestr(zipfile.ZipInfo("a/"), b"")
        for name, data in FILES.items():
            with writer.open(name, "w", force_zip64=kind == "zip64") as member:
                member.write(data)
        if kind == "comment":
            writer.comment = b"PK\5\6 is how the end begins" * 20
    return pipe.content or plain.getvalue()


@pytest.mark.parametrize(
    "kind", ["stored", "deflated", "streamed", "zip64", "behind a program", "comment"]
)
def test_members_are_those_that_zipfile_finds(kind: str, tmp_path: Path) -> None:
    content = archive(kind)
    if kind == "comment":
        content = content.replace(b"PK\5\6 is", b"PK\5\7 is")
    with zipfile.ZipFile(io.BytesIO(content)) as known:
        expected = [
            (i.filename, i.CRC, i.file_size, i.compress_size, i.external_attr)
            for i in known.infolist()
        ]
        directory = Directory(io.BytesIO(content))
        found = list(directory)
        assert [(m.name, m.crc, m.size, m.compressed, m.attributes) for m in found] == expected
        assert [directory.read(m.at) for m in found] == [known.read(n) for n in known.namelist()]
        assert directory.count == len(expected)


def test_sizes_beyond_four_gigabytes_are_read_from_their_field(monkeypatch) -> None:
    stream = io.BytesIO()
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    with zipfile.ZipFile(stream, "w") as writer:
        for name, data in FILES.items():
            writer.writestr(name, data)
    assert b"PK\6\6" in stream.getvalue()
    directory = Directory(stream)
    assert {m.name: directory.read(m.at) for m in directory} == FILES


def contents(path: Path) -> dict[str, bytes]:
    return {str(entry): entry.read() for entry in read_archive(path).entries}


def test_an_archive_that_ends_early_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    content, path = archive("zip64"), tmp_path / "cut.zip"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError):
            read_archive(path)


def test_a_changed_byte_is_harmless_or_refused_and_never_changes_a_file(tmp_path: Path) -> None:
    content, path = archive("deflated"), tmp_path / "changed.zip"
    refused = 0
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        try:
            found = contents(path)
        except (DataError, OSError):
            refused += 1
            continue
        assert set(found.values()) <= {*FILES.values(), b""}  # a folder may become a file
    assert refused > len(content) // 4


def test_a_member_takes_little_memory(tmp_path: Path) -> None:
    path, count = tmp_path / "many.zip", 5_000
    with zipfile.ZipFile(path, "w") as writer:
        for index in range(count):
            writer.writestr(f"{index % 7}/{index:07}.png", b"")
    # In a process of its own: what others of this one reserve meanwhile would be counted.
    command = [sys.executable, "-c", MEMORY_OF_READING, str(path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found, kept, most = map(int, printed.split())
    assert found == count
    assert kept < 260 * count
    assert most < 300 * count + 2 * (1 << 20)  # and two blocks of the directory


def test_a_path_of_great_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.zip"
    with zipfile.ZipFile(path, "w") as writer:
        writer.writestr("a/" * 20_000 + "1.png", b"")
    with Archive(path) as deep, pytest.raises(DataError, match="more than 4,096 characters"):
        list(deep.members())
