"""Named sets: public facts, bundled digits, files in a data folder, downloads that fail."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from dpdm_cli.data import NAMED, load_images
from dpdm_cli.data.readers import public_sets
from dpdm_cli.errors import DataError, ResourceError, UsageError


def test_the_public_facts_load_without_torch():
    script = "import sys, dpdm_cli.data.named as n; assert n.NAMED; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "False"


@pytest.mark.parametrize("facts", NAMED.values(), ids=list(NAMED))
def test_class_names_are_different_folder_names(facts):
    assert len({name.casefold() for name in facts.classes}) == len(facts.classes)
    assert all(Path(name).name == name and name.isascii() for name in facts.classes)


def test_digits_are_split_by_index_and_scaled_to_bytes():
    bundled = load_digits()
    train, test = load_images("digits"), load_images("digits", split="test")
    assert (len(train.images), len(test.images)) == (1438, 359)
    assert train.images.shape[1:] == (1, 8, 8)
    expected = [round(value * 255 / 16) for value in bundled.images[4].ravel()]
    assert test.images[0].flatten().tolist() == expected
    assert train.images[3].flatten().float().sum() == sum(
        round(value * 255 / 16) for value in bundled.images[3].ravel()
    )
    assert test.labels.tolist() == bundled.target[4::5].tolist()
    both = torch.cat([train.labels, test.labels]).bincount()
    assert both.tolist() == np.bincount(bundled.target).tolist()


def test_digits_can_be_resized_and_coloured():
    assert load_images("digits", image_size=16, channels=3).images.shape == (1438, 3, 16, 16)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_real_sets_have_their_public_size_and_shape(data_dir, name, split):
    facts = NAMED[name]
    found = load_images(name, split=split, data_dir=data_dir, download=False)
    assert found.images.shape == (facts.size(split), 1, 28, 28)
    assert found.classes == facts.classes
    assert found.labels.bincount(minlength=10).min() > 0


def test_the_first_real_mnist_images_are_5_0_4_1_9(data_dir):
    assert load_images("mnist", data_dir=data_dir).labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_the_data_folder_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DPDM_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=str(tmp_path)):
        load_images("mnist", download=False)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "celeba"])
def test_a_set_that_may_not_be_fetched_names_its_files_and_writes_nothing(tmp_path, name):
    with pytest.raises(DataError) as caught:
        load_images(name, data_dir=tmp_path / "none", download=False)
    assert all(file in caught.value.hint for file in NAMED[name].files)
    assert "http" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_failed_download_names_the_files_and_leaves_nothing_behind(tmp_path, monkeypatch):
    import torchvision.datasets

    def fail(self):
        Path(self.raw_folder).mkdir(parents=True)
        (Path(self.raw_folder) / "train-images-idx3-ubyte").write_bytes(b"half")
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", fail)
    timeout = socket.getdefaulttimeout()
    with pytest.raises(ResourceError, match="no network") as caught:
        load_images("mnist", data_dir=tmp_path)
    assert all(file in caught.value.hint for file in NAMED["mnist"].files)
    assert not list(tmp_path.iterdir())
    assert socket.getdefaulttimeout() == timeout


def test_a_download_adds_what_is_missing_and_leaves_what_is_there(data_dir, tmp_path, monkeypatch):
    import torchvision.datasets

    def fetch(self):
        shutil.copytree(data_dir / "MNIST" / "raw", self.raw_folder)

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", fetch)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    kept = raw / "t10k-images-idx3-ubyte"
    shutil.copyfile(data_dir / "MNIST" / "raw" / kept.name, kept)
    before = kept.stat()
    found = load_images("mnist", split="test", data_dir=tmp_path)
    assert len(found.images) == 10_000
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert os.listdir(tmp_path) == ["MNIST"]


def test_a_truncated_file_is_damaged_and_not_fetched_again(data_dir, tmp_path, monkeypatch):
    import torchvision.datasets

    def never(self):
        raise AssertionError("downloaded over the user's files")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", never)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (data_dir / "MNIST" / "raw").iterdir():
        (raw / file.name).write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DataError, match="cannot be read"):
        load_images("mnist", split="test", data_dir=tmp_path)


def test_files_of_another_size_are_refused(data_dir, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    source = data_dir / "MNIST" / "raw"
    for kind in ("images-idx3", "labels-idx1"):
        shutil.copyfile(source / f"t10k-{kind}-ubyte", raw / f"train-{kind}-ubyte")
        shutil.copyfile(source / f"t10k-{kind}-ubyte", raw / f"t10k-{kind}-ubyte")
    with pytest.raises(DataError, match="60000 images in its train split, found 10000"):
        load_images("mnist", data_dir=tmp_path, download=False)


def test_a_damaged_cifar_batch_is_not_unpickled(tmp_path):
    for name in NAMED["cifar10"].files:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"cos\nsystem\n(S'touch sprung'\ntR.")
    with pytest.raises(DataError, match="corrupted"):
        load_images("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize(("options", "side"), [({}, 32), ({"image_size": 16}, 16)])
def test_celeba_squares_are_cut_from_the_middle(tmp_path, monkeypatch, encode, options, side):
    import torchvision.datasets

    photographs = tmp_path / "celeba" / "img_align_celeba"
    photographs.mkdir(parents=True)
    pixels = np.zeros((218, 178, 3), np.uint8)
    pixels[20:198] = 90
    for index in (1, 2, 3):
        (photographs / f"{index:06}.jpg").write_bytes(encode(pixels, suffix="JPEG", quality=100))
    for name in NAMED["celeba"].files[1:]:
        (tmp_path / name).touch()
    names = [f"{index:06}.jpg" for index in (1, 2, 3)]
    stand_in = type("CelebA", (), {"__init__": lambda self, *a, **k: None, "filename": names})
    monkeypatch.setattr(torchvision.datasets, "CelebA", stand_in)
    monkeypatch.setattr(public_sets.NamedSet, "size", lambda self, split: 3)
    found = load_images("celeba", data_dir=tmp_path, **options)
    assert found.images.shape == (3, 3, side, side)
    assert (found.labels, found.classes) == (None, ())
    assert (found.images.float() - 90).abs().max() <= 6


def test_named_sets_take_no_other_classes():
    with pytest.raises(UsageError):
        load_images("digits", classes=["a", "b"])
    assert load_images("digits", classes=NAMED["digits"].classes).labels is not None


def test_only_train_and_test_are_splits():
    with pytest.raises(UsageError):
        load_images("digits", split="validation")
