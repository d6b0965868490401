"""Images in an .npz file, as `dpdm sample --format npz` writes them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dpdm_cli.data import load_images
from dpdm_cli.errors import DataError

IMAGES = np.random.default_rng(5).integers(0, 256, (4, 6, 6), dtype=np.uint8)
COLOUR = np.random.default_rng(6).integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
LABELS = np.array([0, 2, 1, 2])


@pytest.fixture
def save(tmp_path):
    def save(**arrays):
        path = tmp_path / "set.npz"
        np.savez_compressed(path, **arrays)
        return str(path)

    return save


def refusal(path: str, **options) -> str:
    with pytest.raises(DataError) as caught:
        load_images(path, **options)
    return caught.value.message


@pytest.mark.parametrize(
    ("images", "planes"),
    [
        (IMAGES, IMAGES[:, None]),
        (IMAGES[..., None], IMAGES[:, None]),
        (COLOUR, np.moveaxis(COLOUR, 3, 1)),
        (np.asfortranarray(COLOUR), np.moveaxis(COLOUR, 3, 1)),
    ],
    ids=["grey", "grey with a channel", "colour", "column order"],
)
def test_every_pixel_comes_back(save, images, planes):
    found = load_images(save(images=images))
    assert np.array_equal(found.images.numpy(), planes)
    assert found.labels is None
    assert found.classes == ()


def test_labels_and_names_come_back(save):
    found = load_images(save(images=IMAGES, labels=LABELS, classes=np.array(["x", "y", "z", "w"])))
    assert found.labels.tolist() == LABELS.tolist()
    assert found.classes == ("x", "y", "z", "w")


def test_declared_classes_reorder_labels_by_name(save):
    path = save(images=IMAGES, labels=LABELS, classes=np.array(["x", "y", "z"]))
    found = load_images(path, classes=["z", "new", "y", "x"])
    assert [found.classes[label] for label in found.labels] == ["x", "z", "y", "z"]


def test_an_image_of_a_class_not_declared_is_refused(save):
    path = save(images=IMAGES, labels=LABELS, classes=np.array(["x", "y", "z"]))
    assert "not declared: z" in refusal(path, classes=["x", "y"])


@pytest.mark.parametrize("persons", [[7, -3, 7, 12], ["b", "a", "b", "c"]])
def test_persons_are_numbered_from_0_on(save, persons):
    assert load_images(save(images=IMAGES, persons=np.array(persons))).persons.tolist() == [
        1,
        0,
        1,
        2,
    ]
    assert load_images(save(images=IMAGES)).persons is None


@pytest.mark.parametrize("persons", [[1, 2, 3], [0.5, 1, 2, 3], [[1], [2], [3], [4]]])
def test_persons_that_are_not_one_for_each_image_are_refused(save, persons):
    assert "`persons`" in refusal(save(images=IMAGES, persons=np.array(persons)))


def test_without_names_classes_are_numbers(save):
    assert load_images(save(images=IMAGES, labels=LABELS)).classes == ("0", "1", "2")


def test_a_number_without_an_image_is_refused_unless_declared(save):
    path = save(images=IMAGES, labels=LABELS * 2)
    assert "2 of the classes 0..4 have no image: 1, 3" in refusal(path)
    assert load_images(path, classes=list("abcde")).labels.tolist() == [0, 4, 2, 4]


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, -1, 0, 0]], ids=["above", "below"])
def test_labels_out_of_range_are_refused(save, labels):
    path = save(images=IMAGES, labels=np.array(labels), classes=np.array(["x", "y", "z"]))
    assert "outside 0..2" in refusal(path)


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros(3, int),
        np.zeros((4, 1), int),
        np.zeros(4),
        np.array(["a"] * 4),
        np.array([0, 0, 0, 2**63], np.uint64),
        np.array([0, 0, 0, 10**15]),
        np.array(0),
    ],
    ids=["few", "table", "float", "text", "wraps", "huge", "scalar"],
)
def test_labels_of_other_shapes_or_kinds_are_refused(save, labels):
    assert refusal(save(images=IMAGES, labels=labels))


@pytest.mark.parametrize(
    "images",
    [
        IMAGES.astype(np.float32),
        IMAGES[0],
        np.zeros((0, 6, 6), np.uint8),
        np.zeros((2, 6, 6, 4), np.uint8),
        IMAGES.astype(np.uint16),
    ],
    ids=["float", "one image", "none", "four channels", "16-bit"],
)
def test_images_of_other_shapes_or_types_are_refused(save, images):
    assert refusal(save(images=images))


@pytest.mark.parametrize(
    "classes",
    [
        np.array(["x", "x", "y"]),
        np.arange(3),
        np.array("abc"),
        np.array([0x110000, 0x110001, 2**31], np.uint32).view("U1"),
        np.array([0x110000, 0x110001, 2**31], np.uint32).view("U1").astype(">U1"),
    ],
    ids=["twice", "numbers", "one", "no characters", "nor of another order"],
)
def test_class_names_must_be_different_strings(save, classes):
    assert "must be different names" in refusal(save(images=IMAGES, labels=LABELS, classes=classes))


def test_objects_are_not_unpickled(save, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    path = save(images=np.array([Trap()], dtype=object))
    assert "Python objects" in refusal(path)
    assert not (tmp_path / "sprung").exists()


def test_a_header_that_claims_more_than_there_is_reserves_nothing(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 28, 28)}
    )
    path = tmp_path / "liar.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", stream.getvalue() + bytes(100))
    assert "claims" in refusal(str(path))


def test_missing_images_are_named(save):
    assert "no array `images`" in refusal(save(pictures=IMAGES))


def test_a_truncated_file_is_refused(save, tmp_path):
    path = tmp_path / "cut.npz"
    whole = Path(save(images=IMAGES)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert str(path) in refusal(str(path))


def test_a_file_of_arrays_has_no_test_split(save):
    assert "no test split" in refusal(save(images=IMAGES), split="test")


def test_classes_need_labels(save):
    assert "no array `labels`" in refusal(save(images=IMAGES), classes=["a"])


def test_size_and_channels_are_fitted(save):
    found = load_images(save(images=COLOUR, labels=LABELS), image_size=3, channels=1)
    assert found.images.shape == (4, 1, 3, 3)
