"""Folders of images, as `load_images` reads them."""

from __future__ import annotations

import os

import numpy as np
import pytest

from dpdm_cli.data import load_images
from dpdm_cli.errors import DataError, UsageError


def pixel(images, index: int) -> int:
    return int(images.images[index, 0, 0, 0])


def refusal(source, **options) -> DataError:
    with pytest.raises(DataError) as caught:
        load_images(str(source), **options)
    assert caught.value.exit_code == 3
    return caught.value


def test_one_subfolder_a_class_in_sorted_order(make_folder, encode):
    root = make_folder({"dogs/b.png": encode(3), "cats/z.png": encode(2), "cats/a.png": encode(1)})
    found = load_images(str(root))
    assert found.classes == ("cats", "dogs")
    assert found.labels.tolist() == [0, 0, 1]
    assert [pixel(found, i) for i in range(3)] == [1, 2, 3]
    assert found.images.shape == (3, 1, 4, 4)
    assert found.name == "pictures"


def test_a_flat_folder_is_unconditional(make_folder, encode):
    found = load_images(str(make_folder({"a.png": encode(1), "b.bmp": encode(2, suffix="BMP")})))
    assert found.labels is None
    assert found.classes == ()
    assert len(found.images) == 2


def test_one_image_is_a_data_set(make_folder, encode):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    found = load_images(str(make_folder({"only.png": encode(pixels)})))
    assert np.array_equal(found.images[0].numpy(), np.moveaxis(pixels, 2, 0))


def test_many_images_keep_their_order(make_folder, encode):
    root = make_folder({f"{index:03}.png": encode(index) for index in range(200)})
    assert load_images(str(root)).images[:, 0, 0, 0].tolist() == list(range(200))


def test_large_images_read_by_threads_keep_their_order(make_folder, encode):
    files = {f"{index:03}.png": encode(index, (130, 129)) for index in range(150)}
    found = load_images(str(make_folder(files)))
    assert found.images[:, 0, 0, 0].tolist() == list(range(150))
    assert found.size == (129, 130)


def test_train_and_test_folders_are_splits(make_folder, encode):
    root = make_folder({"train/a/1.png": encode(1), "test/a/2.png": encode(2)})
    assert [pixel(load_images(str(root), split=s), 0) for s in ("train", "test")] == [1, 2]


def test_a_folder_without_a_test_split_says_how_to_make_one(make_folder, encode):
    refused = refusal(make_folder({"a/1.png": encode()}), split="test")
    assert "no test split" in refused.message
    assert "train/ and test/" in refused.hint


def test_declared_classes_may_be_called_train_and_test(make_folder, encode):
    root = make_folder({"train/1.png": encode(), "test/1.png": encode()})
    assert load_images(str(root), classes=["test", "train"]).labels.tolist() == [0, 1]


def test_what_dpdm_sample_writes_beside_the_classes_is_ignored(make_folder, encode):
    root = make_folder(
        {
            "metadata.json": b"{}",
            "grid.png": encode(9, (50, 50)),
            ".partial": b"",
            "0/00001.png": encode(1),
            "1/00000.png": encode(2),
        }
    )
    found = load_images(str(root))
    assert found.classes == ("0", "1")
    assert len(found.images) == 2


def test_what_dpdm_sample_writes_beside_flat_images_is_ignored(make_folder, encode):
    files = {"metadata.json": b"{}", "grid.png": encode(9, (50, 50)), "0.png": encode(1)}
    assert len(load_images(str(make_folder(files))).images) == 1


def test_a_flat_image_called_grid_is_an_image_without_a_manifest(make_folder, encode):
    assert len(load_images(str(make_folder({"grid.png": encode(), "a.png": encode()}))).images) == 2


def test_images_beside_class_folders_are_refused(make_folder, encode):
    refused = refusal(make_folder({"stray.png": encode(), "a/1.png": encode()}))
    assert "stray.png" in refused.message


def test_folders_in_class_folders_are_refused(make_folder, encode):
    refused = refusal(make_folder({"a/1.png": encode(), "a/more/2.png": encode()}))
    assert "a/more" in refused.message


def test_an_outer_folder_around_the_classes_is_looked_through(make_folder, encode):
    root = make_folder({"pets/cats/1.png": encode(), "pets/dogs/1.png": encode()})
    assert load_images(str(root)).classes == ("cats", "dogs")


def test_mixed_sizes_are_counted_and_cured_by_an_image_size(make_folder, encode):
    root = make_folder(
        {"a.png": encode(7, (4, 4)), "b.png": encode(7, (6, 4)), "c.png": encode(7, (4, 4))}
    )
    refused = refusal(root)
    assert "4x4 (2), 6x4 (1)" in refused.message
    assert "--image-size" in refused.hint
    found = load_images(str(root), image_size=3)
    assert found.images.shape == (3, 1, 3, 3)
    assert bool((found.images == 7).all())


def test_grey_and_colour_together_need_a_number_of_channels(make_folder, encode):
    root = make_folder({"a.png": encode(5), "b.png": encode(mode="RGB")})
    refused = refusal(root)
    assert "grey (1), colour (1)" in refused.message
    assert "--channels" in refused.hint
    assert [load_images(str(root), channels=c).channels for c in (1, 3)] == [1, 3]


def test_all_bad_files_are_counted_and_the_first_twenty_named(make_folder, encode):
    files = {f"bad{index:02}.png": b"<html>" for index in range(23)}
    files |= {"good.png": encode(), "palette.png": encode(mode="P"), "a_cut.jpg": b"\xff\xd8\xff"}
    message = refusal(make_folder(files)).message
    assert "25 of 26" in message
    assert "bad18.png" in message
    assert "a_cut.jpg is" in message
    assert message.count("\n") == 21
    assert message.endswith("and 5 more")


def test_bad_files_are_reported_though_sizes_differ_too(make_folder, encode):
    root = make_folder({"a.png": encode(), "b.png": encode(size=(9, 9)), "c.png": b""})
    assert "c.png is empty" in refusal(root).message


def test_a_pipe_is_refused_without_waiting_for_it(make_folder, encode):
    root = make_folder({"a.png": encode()})
    os.mkfifo(root / "pipe.png")
    assert "pipe.png is not a regular file" in refusal(root).message


def test_a_link_to_nowhere_is_named(make_folder, encode):
    root = make_folder({"a.png": encode()})
    (root / "lost.png").symlink_to(root / "nowhere.png")
    assert "lost.png" in refusal(root).message


def test_a_link_to_itself_is_a_bad_file_among_others(make_folder, encode):
    root = make_folder({"a/1.png": encode(), "a/2.png": b"no image"})
    (root / "a" / "loop.png").symlink_to("loop.png")
    refused = refusal(root)
    assert "loop.png" in refused.message
    assert "2.png" in refused.message


def test_a_folder_linked_into_itself_ends(make_folder, encode):
    root = make_folder({"a/1.png": encode()})
    (root / "a" / "again").symlink_to(root, target_is_directory=True)
    assert "inside its class folders" in refusal(root).message


@pytest.mark.parametrize("files", [{}, {"a/": b"", "b/": b""}, {"notes.txt": b"hello"}])
def test_an_empty_set_is_refused(make_folder, files):
    assert "holds no image" in refusal(make_folder(files)).message


def test_an_empty_class_is_refused_unless_it_is_declared(make_folder, encode):
    root = make_folder({"cats/1.png": encode(), "emus/": b""})
    refused = refusal(root)
    assert "emus" in refused.message
    assert "--classes" in refused.hint
    found = load_images(str(root), classes=["cats", "dogs", "emus"])
    assert found.classes == ("cats", "dogs", "emus")
    assert found.labels.tolist() == [0]


def test_declared_classes_fix_the_order_of_the_labels(make_folder, encode):
    root = make_folder({"a/1.png": encode(), "b/1.png": encode()})
    assert load_images(str(root), classes=["b", "a"]).labels.tolist() == [1, 0]


def test_removing_the_last_image_of_a_declared_class_changes_no_class(make_folder, encode):
    root = make_folder({"a/1.png": encode(), "b/1.png": encode()})
    before = load_images(str(root), classes=["a", "b"]).classes
    (root / "b" / "1.png").unlink()
    (root / "b").rmdir()
    assert load_images(str(root), classes=["a", "b"]).classes == before


def test_a_folder_outside_the_declared_classes_is_refused(make_folder, encode):
    root = make_folder({"a/1.png": encode(), "b/1.png": encode()})
    assert "declared classes: b" in refusal(root, classes=["a"]).message


def test_classes_for_a_flat_folder_are_refused(make_folder, encode):
    assert "no class folders" in refusal(make_folder({"1.png": encode()}), classes=["a"]).message


@pytest.mark.parametrize("classes", [[], ["a", "a"], [""], ["a/b"], ["..", "b"], ["a\nb"]])
def test_impossible_class_names_are_usage_errors(make_folder, encode, classes):
    root = make_folder({"a/1.png": encode()})
    with pytest.raises(UsageError):
        load_images(str(root), classes=classes)


def test_class_folders_with_unprintable_names_are_refused(make_folder, encode):
    assert "unusable name" in refusal(make_folder({"a\nb/1.png": encode()})).message


def test_a_missing_path_is_named(tmp_path):
    assert str(tmp_path / "gone") in refusal(tmp_path / "gone").message


@pytest.mark.parametrize(
    ("typed", "meant"), [("mnits", "mnist"), ("Fashion_MNIST", "fashion-mnist")]
)
def test_a_mistyped_name_is_answered_with_the_right_one(typed, meant):
    assert meant in refusal(typed).hint


@pytest.mark.parametrize("source", ["", "x" * 5000, "a\0b"])
def test_odd_sources_are_data_errors(source):
    assert "no data set or path" in refusal(source).message


def test_a_single_file_is_no_data_set(tmp_path, encode):
    (tmp_path / "one.png").write_bytes(encode())
    assert "goes into a folder" in refusal(tmp_path / "one.png").hint


def test_reading_leaves_the_folder_as_it_was(make_folder, encode):
    root = make_folder({"a/1.png": encode(), "b/1.png": b"broken"})
    before = sorted((str(p), p.stat().st_mtime_ns) for p in root.rglob("*"))
    refusal(root)
    assert sorted((str(p), p.stat().st_mtime_ns) for p in root.rglob("*")) == before
