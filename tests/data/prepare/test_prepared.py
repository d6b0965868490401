"""Prepared files as `load_images` maps them: what they hold, and that damage is noticed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dpdm_cli.data import ImageSet, duplicate_count, load_images
from dpdm_cli.data.prepare.prepared import Facts, PreparedFile, header_of, reserved_bytes
from dpdm_cli.data.prepare.preparing import prepare
from dpdm_cli.errors import DamagedFileError, DataError, DpdmError, UsageError
from dpdm_cli.evaluation.scoring import content_digest


def write(path: Path, shape: tuple[int, ...], classes: tuple[str, ...] = ("a", "b")) -> Path:
    """Random images, N H W or N H W 3, prepared."""
    rng = np.random.default_rng(sum(shape))
    arrays = {"images": rng.integers(0, 256, shape, dtype=np.uint8)}
    if classes:
        arrays |= {"labels": np.arange(shape[0]) % len(classes), "classes": np.array(classes)}
    np.savez(path.with_suffix(".npz"), **arrays)
    prepare(path.with_suffix(".npz"), path)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "some.safetensors", (5, 3, 3, 3))


@pytest.mark.parametrize("classes", [("a", "b"), ()])
@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (7, 5, 5), (8, 2, 4), (1, 1, 1)])
def test_it_is_a_safetensors_file_with_aligned_tensors(
    tmp_path: Path, shape: tuple[int, ...], classes: tuple[str, ...]
) -> None:
    classes = classes[: shape[0]]
    path = write(tmp_path / "x.safetensors", shape, classes)
    known, found = load_images(path.with_suffix(".npz")), load_images(path)
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("images"), known.images)
        assert ("labels" in file.keys()) == bool(classes)  # noqa: SIM118
        if classes:
            assert torch.equal(file.get_tensor("labels"), known.labels)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert next(iter(t for t in header if t != "__metadata__")) == "images"
    assert (8 + length) % 4096 == 0
    assert not classes or header["labels"]["data_offsets"][0] % 8 == 0
    assert torch.equal(found.images, known.images)
    assert found.labels is known.labels or torch.equal(found.labels, known.labels)
    assert (found.classes, found.name) == (known.classes, "x")


def test_opening_reads_no_image_and_verifying_reads_all(path: Path) -> None:
    load_images(path).verify()
    with path.open("rb+") as file:
        file.seek(reserved_bytes(("a", "b")) + 100)
        file.write(bytes([file.read(1)[0] ^ 1]))
    damaged = load_images(path)
    assert duplicate_count(damaged) == 0
    with pytest.raises(DamagedFileError, match="SHA-256 of its images"):
        damaged.verify()


def test_a_file_of_another_length_is_refused(path: Path) -> None:
    content = path.read_bytes()
    start = reserved_bytes(("a", "b"))
    for length in (0, 1, 7, 8, 9, 200, start - 1, start, start + 1, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedFileError) as caught:
            load_images(path)
        assert str(path) in caught.value.message
    path.write_bytes(content + b"\0")
    with pytest.raises(DamagedFileError, match="bytes of"):
        load_images(path)


def test_a_changed_byte_before_or_behind_the_images_is_noticed(path: Path) -> None:
    content = path.read_bytes()
    facts = PreparedFile(path).facts
    written = len(content[: reserved_bytes(("a", "b"))].rstrip())
    for place in (*range(0, written, 3), *range(len(content) - 5 * 8, len(content))):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(DpdmError):
            load_images(path)
    path.write_bytes(content)
    assert PreparedFile(path).facts == facts


@pytest.mark.parametrize(
    ("metadata", "what"), [(None, "a safetensors file"), ({"kind": "model"}, "a model file")]
)
def test_other_safetensors_files_are_named(tmp_path: Path, metadata, what: str) -> None:
    path = tmp_path / "model.safetensors"
    text = {"dpdm": json.dumps(metadata)} if metadata else None
    save_file({"images": torch.zeros(2, 1, 2, 2, dtype=torch.uint8)}, path, metadata=text)
    with pytest.raises(DataError, match=f"is {what}, not one of prepared images") as caught:
        load_images(path)
    assert "dpdm prepare" in caught.value.hint


def test_no_file_and_the_test_split_are_data_errors(path: Path) -> None:
    with pytest.raises(DataError, match="no data set or path"):
        load_images(path.with_name("gone.safetensors"))
    with pytest.raises(DataError, match="no test split"):
        load_images(path, split="test")


@pytest.mark.parametrize("options", [{"image_size": 4}, {"channels": 1}])
def test_what_it_was_not_prepared_with_is_refused(path: Path, options) -> None:
    with pytest.raises(UsageError) as caught:
        load_images(path, **options)
    assert "prepare the images again" in caught.value.hint


def test_stated_classes_take_the_labels_by_name_and_may_have_no_image(path: Path) -> None:
    known, found = load_images(path), load_images(path, classes=["c", "b", "a"])
    assert found.classes == ("c", "b", "a")
    assert known.labels is not None
    assert found.labels is not None
    assert [found.classes[i] for i in found.labels] == [known.classes[i] for i in known.labels]
    with pytest.raises(DataError, match="classes that are not declared: b"):
        load_images(path, classes=["a"])
    with pytest.raises(UsageError, match="different names"):
        load_images(path, classes=["a", "a"])


def test_what_it_was_prepared_with_may_be_said_again(path: Path) -> None:
    assert len(load_images(path, image_size=3, channels=3, classes=["a", "b"]).images) == 5


def test_rows_are_the_images_of_the_indices(path: Path) -> None:
    found = load_images(path)
    indices = torch.tensor([4, 0, 0, 3])
    rows = found.rows(indices)
    assert torch.equal(rows, load_images(path.with_suffix(".npz")).images[indices])
    rows.zero_()
    load_images(path).verify()


def test_indices_out_of_range_and_a_file_that_was_cut_are_errors(path: Path) -> None:
    found = load_images(path)
    for outside in (-1, 5):
        with pytest.raises(IndexError):
            found.rows(torch.tensor([0, outside]))
    assert found.rows(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 3, 3)
    with path.open("rb+") as file:
        file.truncate(reserved_bytes(("a", "b")) + 4 * 27)
    assert len(found.rows(torch.tensor([3]))) == 1
    with pytest.raises(DamagedFileError, match="has been cut"):
        found.rows(torch.tensor([4]))


def test_without_the_system_calls_rows_are_the_same(path: Path, monkeypatch) -> None:
    found, indices = load_images(path), torch.tensor([4, 0, 2])
    known = found.rows(indices)
    monkeypatch.delattr(os, "posix_fadvise")
    assert torch.equal(found.rows(indices), known)
    monkeypatch.delattr(os, "preadv")
    assert torch.equal(found.rows(indices), known)


def test_what_rows_read_does_not_stay_in_memory(tmp_path: Path) -> None:
    mappings = Path("/proc/self/smaps")
    if not mappings.exists():
        pytest.skip("only Linux tells how much of a file is in memory")
    path = write(tmp_path / "large.safetensors", (8192, 32, 32, 3), ())

    def resident() -> int:
        """Bytes of this file in this process's memory, whatever else is there."""
        total, is_its = 0, False
        for line in mappings.read_text().splitlines():
            name, *rest = line.split()
            if not name.endswith(":"):  # where a mapping lies and what of
                is_its = line.endswith(str(path))
            elif is_its and name == "Rss:":
                total += int(rest[0]) * 1024
        return total

    found = load_images(path)
    size = found.images.numel()
    for start in range(4):
        found.rows(torch.arange(start, 8192, 4))
    assert resident() < size // 8
    found.images.sum()
    assert resident() > size // 2  # it would have been noticed


def test_the_content_tells_images_and_labels_apart(tmp_path: Path) -> None:
    images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    arrays = {"images": images, "labels": np.array([0, 1])}
    variants = [
        arrays,
        arrays,
        {**arrays, "labels": np.array([1, 0])},
        {**arrays, "images": images[::-1]},
        {**arrays, "images": images.reshape(2, 2, 8)},
        {"images": images},
    ]
    found = []
    for index, values in enumerate(variants):
        np.savez(tmp_path / f"{index}.npz", **values)
        prepare(tmp_path / f"{index}.npz", tmp_path / f"{index}.safetensors")
        found.append(load_images(tmp_path / f"{index}.safetensors").content)
    assert found[0] == found[1]
    assert len(set(found)) == len(found) - 1
    assert load_images(tmp_path / "0.npz").content is None


def test_the_header_always_fits_its_place() -> None:
    classes = tuple(f'"\\{index}' + "ü" * 200 for index in range(1000))
    facts = Facts(
        shape=(10**7, 3, 4096, 4096),
        classes=classes,
        split="train",
        image_size=4096,
        channels=3,
        source="\\" * 255,
        source_sha256="0" * 64,
        images_sha256="0" * 64,
        labels_sha256="0" * 64,
        duplicates=10**7,
        bad=10**7,
        first_bad=("\\" * 5000,) * 20,
        written_by="dpdm 0.1.0",
    )
    assert len(header_of(facts)) == reserved_bytes(classes)


def test_a_file_that_is_cut_while_it_is_compared_ends_nothing(path: Path) -> None:
    for use in (content_digest, ImageSet.in_memory):
        images = load_images(path)
        whole = path.read_bytes()
        os.truncate(path, 100)
        with pytest.raises(DamagedFileError, match="has been cut"):
            use(images)
        path.write_bytes(whole)
        assert use(load_images(path))
    assert load_images(path).in_memory().storage is None
