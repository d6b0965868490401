"""A set of images is consistent, and duplicates in it are counted."""

from __future__ import annotations

import pytest
import torch

from dpdm_cli.data import ImageSet, duplicate_count
from dpdm_cli.data.duplicates import digests_of, repeated
from dpdm_cli.errors import DataError


def image_set(images: torch.Tensor, labels: torch.Tensor | None = None, classes=()) -> ImageSet:
    return ImageSet("some", images, labels, tuple(classes))


def test_duplicates_count_every_copy_but_the_first():
    images = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    assert duplicate_count(image_set(images)) == 0
    assert duplicate_count(image_set(images[[0, 1, 1, 2, 1]])) == 2


def test_duplicates_are_found_across_labels():
    images = torch.zeros(2, 1, 3, 3, dtype=torch.uint8)
    assert duplicate_count(image_set(images, torch.tensor([0, 1]), "ab")) == 1


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 1, 3, 3),
        torch.zeros(2, 3, 3, dtype=torch.uint8),
        torch.zeros(2, 2, 3, 3, dtype=torch.uint8),
        torch.zeros(0, 1, 3, 3, dtype=torch.uint8),
    ],
    ids=["float", "no channel", "two channels", "empty"],
)
def test_other_tensors_are_refused(images):
    with pytest.raises(DataError):
        image_set(images)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (torch.tensor([0, 2]), "ab"),
        (torch.tensor([-1, 0]), "ab"),
        (torch.tensor([0]), "ab"),
        (torch.tensor([0.0, 1.0]), "ab"),
        (torch.tensor([0, 0]), ""),
        (None, "ab"),
    ],
    ids=["above", "below", "few", "float", "nameless", "no labels"],
)
def test_labels_that_do_not_fit_are_refused(labels, classes):
    with pytest.raises(DataError):
        image_set(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), labels, classes)


def test_a_class_may_have_no_image():
    found = image_set(torch.zeros(1, 1, 3, 3, dtype=torch.uint8), torch.tensor([1]), "abc")
    assert found.classes == ("a", "b", "c")


def test_the_first_duplicates_are_named_with_the_first_image_they_equal():
    generator = torch.Generator().manual_seed(0)
    for distinct in (1, 2, 5, 40, 400):
        values = torch.randint(0, distinct, (60,), generator=generator)
        images = (values.view(-1, 1, 1, 1) % 251).to(torch.uint8).expand(-1, 3, 2, 2).contiguous()
        known: dict[int, int] = {}
        pairs = []
        for index, value in enumerate(images[:, 0, 0, 0].tolist()):
            first = known.setdefault(value, index)
            if first != index:
                pairs.append((index, first))
        assert repeated(digests_of(images.numpy())) == (len(pairs), pairs[:20])


def test_rows_are_the_images_of_the_indices_in_memory_of_their_own():
    found = image_set(torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 2, 2))
    rows = found.rows(torch.tensor([4, 0, 4]))
    assert rows[:, 0, 0, 0].tolist() == [4, 0, 4]
    rows.zero_()
    assert found.images[4, 0, 0, 0] == 4
    assert found.rows(torch.tensor([], dtype=torch.int64)).shape == (0, 1, 2, 2)
    found.verify()
