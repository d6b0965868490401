from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpdm_cli.data.sources import classes_of, sample_metadata, samples_in, splits_of
from dpdm_cli.errors import DamagedFileError
from dpdm_cli.stored import MOST_BYTES


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(path)


def zipped(folder: Path) -> Path:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as target:
        for file in folder.rglob("*.*"):
            target.write(file, file.relative_to(folder))
    return archive


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["train/a/1.png", "test/a/1.png"], ("train", "test")),
        (["pets/train/a/1.png", "pets/test/a/1.png"], ("train", "test")),
        (["train/1.png", "val/1.png"], ("train",)),
        (["a/1.png", "b/1.png"], ()),
        (["a/1.png", "test/1.png"], ()),
        (["1.png"], ()),
    ],
)
def test_splits_are_told_from_the_names_of_folders(
    tmp_path: Path, files: list[str], splits: tuple[str, ...], packed: bool
) -> None:
    for file in files:
        picture(tmp_path / "data" / file)
    source = zipped(tmp_path / "data") if packed else tmp_path / "data"
    assert splits_of(source) == splits


def test_named_sets_have_both_splits_and_their_published_classes() -> None:
    assert splits_of("mnist") == ("train", "test")
    assert classes_of("mnist", "test") == tuple("0123456789")
    assert classes_of("celeba", "test") == ()


def test_classes_are_those_of_the_split(tmp_path: Path) -> None:
    for file in ("train/b/1.png", "train/a/1.png", "test/b/1.png"):
        picture(tmp_path / "data" / file)
    for source in (tmp_path / "data", zipped(tmp_path / "data")):
        assert classes_of(source, "train") == ("a", "b")
        assert classes_of(source, "test") == ("b",)


def test_arrays_have_no_splits_and_the_classes_they_name(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    images = np.zeros((2, 4, 4), np.uint8)
    np.savez(file, images=images, labels=np.array([0, 1]), classes=np.array(["u", "v"]))
    assert splits_of(file) == ()
    assert classes_of(file, "train") == ("u", "v")


def test_metadata_is_found_in_the_folder_in_the_zip_and_beside_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    picture(folder / "0" / "1.png")
    assert sample_metadata(folder) == {}
    text = json.dumps({"dataset": "mnist"})
    (folder / "metadata.json").write_text(text)
    assert sample_metadata(folder) == sample_metadata(zipped(folder)) == {"dataset": "mnist"}
    (tmp_path / "alone").mkdir()
    array = tmp_path / "alone" / "x.npz"
    np.savez(array, images=np.zeros((1, 4, 4), np.uint8))
    assert sample_metadata(array) == {}
    (tmp_path / "alone" / "metadata.json").write_text(text)
    assert sample_metadata(array) == {"dataset": "mnist"}
    assert sample_metadata(tmp_path / "absent") == {}


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_metadata_that_is_no_object_is_called_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "metadata.json").write_text(text)
    with pytest.raises(DamagedFileError, match=r"metadata\.json"):
        sample_metadata(tmp_path)


@pytest.mark.parametrize("source", ["samples", "samples/x.npz"])
def test_no_more_of_metadata_is_read_than_it_can_be(tmp_path: Path, source: str) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "x.npz").touch()
    with (tmp_path / "samples" / "metadata.json").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(DamagedFileError, match="more than"):
        sample_metadata(tmp_path / source)


@pytest.mark.parametrize("name", ["samples.npz", "samples.zip"])
def test_a_folder_of_samples_in_one_file_is_that_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert (
        samples_in(tmp_path) == tmp_path
    )  # a user's own folder, until `dpdm sample` has described it
    for format in ("", "png", "../samples"):  # a set of PNG files, beside which somebody has put it
        (tmp_path / "metadata.json").write_text(f'{{"format": "{format}"}}')
        assert samples_in(tmp_path) == tmp_path
    (tmp_path / "metadata.json").write_text(f'{{"format": "{name[8:]}"}}')
    assert samples_in(tmp_path) == tmp_path / name


def test_every_other_source_is_itself(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text("{}")
    for source in ("mnist", tmp_path, tmp_path / "nothing.npz"):
        assert samples_in(source) == source
