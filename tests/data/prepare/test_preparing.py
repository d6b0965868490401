"""`prepare` writes what `load_images` reads, whatever interrupts it, and overwrites nothing."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from support.preparing import N, Watcher, fill, images, interrupted, left_in, same

from dpdm_cli.data import duplicate_count, load_images
from dpdm_cli.data.prepare import preparing
from dpdm_cli.data.prepare.preparing import prepare
from dpdm_cli.errors import (
    DamagedFileError,
    DataError,
    UsageError,
)


@pytest.mark.parametrize("options", [{}, {"image_size": 3}, {"channels": 1}])
@pytest.mark.parametrize("kind", ["folder", "flat", "zip", "npz"])
def test_a_prepared_file_is_what_its_source_is(
    tmp_path: Path, out: Path, small_steps: None, kind: str, options
) -> None:
    source = fill(tmp_path / "pictures", images(), 0 if kind == "flat" else 3)
    if kind == "zip":
        source = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", source))
    if kind == "npz":
        known = load_images(source)
        np.savez(tmp_path / "a.npz", images=known.images.permute(0, 2, 3, 1), labels=known.labels)
        source = tmp_path / "a.npz"
    result = prepare(source, out, **options)
    found = load_images(out)
    same(found, load_images(source, **options))
    assert (result.facts.shape[0], result.was_there) == (N, False)
    assert result.facts.content == found.content
    assert left_in(out.parent) == [out.name]
    assert out.stat().st_mode & 0o777 == 0o600


def test_named_sets_splits_and_classes_are_sources_too(tmp_path: Path, out: Path) -> None:
    prepare("digits", out, split="test", image_size=4)
    same(load_images(out), load_images("digits", split="test", image_size=4))
    root = tmp_path / "split"
    fill(root / "train", images(4))
    fill(root / "test", images(5))
    other = out.with_name("y.safetensors")
    prepare(root, other, split="test", classes=["c2", "c1", "c0", "none"])
    same(load_images(other), load_images(root, split="test", classes=["c2", "c1", "c0", "none"]))


def test_processes_give_the_same_file(folder: Path, out: Path, monkeypatch) -> None:
    (folder / "c0" / "bad.png").write_bytes(b"GIF89a")
    prepare(folder, out, skip_bad=True)
    monkeypatch.setattr(preparing, "_WORTH_PROCESSES", 1)
    monkeypatch.setattr(preparing, "_FIRST_FILES", 5)
    monkeypatch.setattr(preparing.torch, "get_num_threads", lambda: 2)
    other = out.with_name("other.safetensors")
    prepare(folder, other, skip_bad=True)
    assert other.read_bytes() == out.read_bytes()


def test_bad_files_are_all_named_before_any_is_left_out(
    folder: Path, out: Path, small_steps: None, monkeypatch
) -> None:
    bad = {f"c{index % 3}/bad{index:02}.png": b"<html>" for index in range(25)}
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    watcher = Watcher()
    with pytest.raises(DataError) as caught:
        prepare(folder, out, reporter=watcher)
    with pytest.raises(DataError) as known:
        load_images(folder)
    assert caught.value.message == known.value.message
    assert "--skip-bad" in caught.value.hint
    assert any("continuing with the other files" in text for text in watcher.said)
    assert not out.exists()

    decoded = []
    monkeypatch.setattr(preparing, "read_chunk", lambda *a: decoded.append(a))
    result = prepare(folder, out, skip_bad=True)
    assert not decoded
    assert result.facts.bad == 25
    assert len(result.facts.first_bad) == 20
    assert (
        result.facts.first_bad[0]
        == "c0/bad00.png is not a PNG, JPEG, WEBP, BMP, TIFF or DICOM image"
    )
    for name in bad:
        (folder / name).unlink()
    same(load_images(out), load_images(folder))


def test_a_set_that_was_refused_begins_anew_when_its_files_are_mended(
    folder: Path, out: Path, small_steps: None
) -> None:
    (folder / "c0" / "000.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"000\.png is empty"):
        prepare(folder, out)
    (folder / "c0" / "000.png").write_bytes(images(1)[0])
    prepare(folder, out)
    same(load_images(out), load_images(folder))


@pytest.mark.parametrize(
    ("odd", "what"), [(images(1, 6, 5, 3)[0], "2 sizes"), (images(1, 5, 5)[0], "grey and colour")]
)
def test_images_that_differ_are_refused_as_soon_as_seen(
    folder: Path, out: Path, small_steps: None, odd: bytes, what: str
) -> None:
    (folder / "c0" / "005.png").write_bytes(odd)
    watcher = Watcher()
    with pytest.raises(DataError, match=what):
        prepare(folder, out, reporter=watcher)
    assert watcher.seen < 5
    assert left_in(out.parent) == []
    prepare(folder, out, image_size=4, channels=3)
    same(load_images(out), load_images(folder, image_size=4, channels=3))


def test_images_that_differ_are_refused_after_going_on_too(
    folder: Path, out: Path, small_steps: None
) -> None:
    (folder / "c2" / "020.png").write_bytes(images(1, 6, 6, 3)[0])
    interrupted(folder, out)
    with pytest.raises(DataError, match=r"5x5 \(\d+\), 6x6 \(1\)"):
        prepare(folder, out)


def test_a_set_without_one_usable_image_is_refused(tmp_path: Path, out: Path) -> None:
    source = fill(tmp_path / "bad", [b"<html>"] * 3)
    with pytest.raises(DataError, match="3 of 3 files"):
        prepare(source, out)
    assert left_in(out.parent)
    for _ in range(2):  # after a call that left something, and by itself
        with pytest.raises(DataError, match=r"none of the 3 files in .* can be used") as caught:
            prepare(source, out, skip_bad=True)
        assert "000.png is not a PNG" in caught.value.message
        assert "--skip-bad" not in caught.value.hint
        assert left_in(out.parent) == []


def test_a_refusal_names_the_hidden_files_that_it_keeps(folder: Path, out: Path) -> None:
    (folder / "c0" / "bad.png").write_bytes(b"<html>")
    with pytest.raises(DataError) as caught:
        prepare(folder, out)
    named = Path(caught.value.hint.split()[-1])
    assert sorted(file.name for file in named.parent.glob(named.name)) == left_in(out.parent)
    assert len(left_in(out.parent)) == 2


def test_duplicates_are_counted_named_and_kept(folder: Path, out: Path, small_steps: None) -> None:
    (folder / "c0" / "a-bad.png").write_bytes(b"")
    shutil.copy(folder / "c2" / "002.png", folder / "c2" / "zz.png")
    shutil.copy(folder / "c1" / "004.png", folder / "c2" / "y.png")
    watcher = Watcher()
    result = prepare(folder, out, skip_bad=True, reporter=watcher)
    assert result.pairs == (("c2/y.png", "c1/004.png"), ("c2/zz.png", "c2/002.png"))
    assert result.facts.duplicates == duplicate_count(load_images(out)) == 2
    assert result.facts.shape[0] == N + 2
    assert any("one file, not one picture" in text for text in watcher.said)


def test_a_complete_file_is_checked_and_left_as_it_is(folder: Path, out: Path) -> None:
    first = prepare(folder, out)
    before = out.stat()
    again = prepare(folder, out)
    assert again.was_there
    assert again.facts == first.facts
    assert (out.stat().st_mtime_ns, out.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    content = bytearray(out.read_bytes())
    content[-N * 8 - 50] ^= 1
    out.write_bytes(content)
    with pytest.raises(DamagedFileError):
        prepare(folder, out)
    assert out.read_bytes() == content


def test_nothing_else_is_overwritten(folder: Path, out: Path) -> None:
    prepare(folder, out)
    whole = out.read_bytes()
    for options in ({"image_size": 4}, {"channels": 3}, {"classes": ["c2", "c1", "c0"]}):
        with pytest.raises(UsageError, match="holds other images"):
            prepare(folder, out, **options)
    (folder / "c0" / "new.png").write_bytes(images(1)[0])
    with pytest.raises(UsageError, match="has changed since"):
        prepare(folder, out)
    assert out.read_bytes() == whole
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, out)
    whole = out.read_bytes()
    with pytest.raises(UsageError, match="nothing is overwritten"):
        prepare(folder, out)
    assert out.read_bytes() == whole


def test_a_file_with_bad_ones_left_out_is_not_for_a_command_without_that(
    folder: Path, out: Path
) -> None:
    (folder / "c0" / "bad.png").write_bytes(b"")
    prepare(folder, out, skip_bad=True)
    with pytest.raises(UsageError, match="left out 1 of the files"):
        prepare(folder, out)
    assert prepare(folder, out, skip_bad=True).was_there


def test_places_that_make_no_sense_are_usage_errors(folder: Path, out: Path) -> None:
    prepare("digits", out)
    for source, target, what in [
        (folder, out.with_suffix(".pt"), r"must end in \.safetensors"),
        (folder, out.with_suffix(""), r"must end in \.safetensors"),
        (folder, folder / "x.safetensors", "is in the folder"),
        (out, out.with_name("y.safetensors"), "is not a folder"),
    ]:
        with pytest.raises(UsageError, match=what):
            prepare(source, target)
    (out.parent / "z.safetensors").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        prepare(folder, out.parent / "z.safetensors")


def test_a_source_that_is_not_there_leaves_nothing(tmp_path: Path, out: Path) -> None:
    with pytest.raises(DataError, match="no data set or path"):
        prepare(tmp_path / "gone", out)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(DataError, match="holds no image"):
        prepare(tmp_path / "empty.zip", out)
    assert left_in(out.parent) == []
