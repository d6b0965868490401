"""`prepare` writes what `load_images` reads, whatever interrupts it, and overwrites nothing."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import signal
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dpdm_cli import files
from dpdm_cli.data import duplicate_count, load_images
from dpdm_cli.data.prepare import preparing, unfinished
from dpdm_cli.data.prepare.preparing import prepare
from dpdm_cli.errors import (
    DamagedFileError,
    DataError,
    InterruptedRunError,
    ResourceError,
    UsageError,
)
from dpdm_cli.reporter import SilentProgress, SilentReporter

N = 23


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def images(n: int = N, *shape: int) -> list[bytes]:
    rng = np.random.default_rng(n)
    return [png(rng.integers(0, 256, shape or (5, 5, 3), dtype=np.uint8)) for _ in range(n)]


def fill(folder: Path, contents: list[bytes], classes: int = 3) -> Path:
    """Files in class folders, or flat for no class."""
    for index, content in enumerate(contents):
        path = folder / (f"c{index % classes}" if classes else "") / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "pictures", images())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "x.safetensors"


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save after every five files or so."""
    monkeypatch.setattr(preparing, "_FIRST_FILES", 3)
    monkeypatch.setattr(preparing, "_BATCH_FILES", 2)
    monkeypatch.setattr(unfinished, "STRETCH_FILES", 5)
    monkeypatch.setattr(unfinished, "_BLOCK", 200)


class Watcher(SilentReporter):
    """Keeps what is said, and acts after some batches."""

    def __init__(self, act: Callable[[], None] = lambda: None, after: int = 0) -> None:
        self.said: list[str] = []
        self._act, self._after, self.seen = act, after, 0

    def note(self, text: str) -> None:
        self.said.append(text)

    warn = note

    def progress(self, *_: object, **__: object):
        watcher = self

        class Progress(SilentProgress):
            def advance(self, count: int = 1, **fields: str) -> None:
                watcher.seen += 1
                if watcher.seen == watcher._after:
                    watcher._act()

        return nullcontext(Progress())


def same(found, known) -> None:
    assert torch.equal(found.images, known.images)
    assert (found.labels is None) == (known.labels is None)
    assert known.labels is None or torch.equal(found.labels, known.labels)
    assert found.classes == known.classes


def left_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.exists() else []


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


class Disk:
    """Keeps what lies in a folder at every moment at which a machine may stop."""

    def __init__(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: list[dict[str, bytes]] = []
        fsync, replace = os.fsync, os.replace

        def keep() -> None:
            self.states.append({path.name: path.read_bytes() for path in out.parent.iterdir()})

        def keeping_sync(handle: int) -> None:
            keep()
            fsync(handle)

        def keeping_move(source: Path, target: Path) -> None:
            keep()
            replace(source, target)
            keep()

        monkeypatch.setattr(unfinished.os, "fsync", keeping_sync)
        monkeypatch.setattr(files.os, "replace", keeping_move)

    @staticmethod
    def restore(state: dict[str, bytes], folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in state.items():
            (folder / name).write_bytes(content)


@pytest.fixture
def states(folder: Path, out: Path, small_steps: None) -> tuple[bytes, list]:
    """The whole file, and what lay there at every moment before; one file of the source is bad."""
    (folder / "c1" / "bad.png").write_bytes(b"GIF89a")
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(out, patch)
        prepare(folder, out, skip_bad=True)
    whole = out.read_bytes()
    assert len(disk.states) > 10
    return whole, disk.states


def test_a_run_cut_off_anywhere_ends_in_the_same_file(
    folder: Path, out: Path, states: tuple[bytes, list]
) -> None:
    whole, kept = states
    for state in kept:
        Disk.restore(state, out.parent)
        if out.name in state:
            assert state[out.name] == whole
        prepare(folder, out, skip_bad=True)
        assert out.read_bytes() == whole
        assert left_in(out.parent) == [out.name]


@pytest.mark.parametrize("name", [".x.safetensors.part", ".x.safetensors.journal.part"])
def test_what_is_lost_or_changed_behind_a_cut_is_made_again(
    folder: Path, out: Path, states: tuple[bytes, list], name: str
) -> None:
    whole, kept = states
    state = max((s for s in kept if name in s), key=lambda s: len(s[name]))
    content = state[name]
    start = 0 if name.endswith("journal.part") else len(content) - N * 75
    changes = [content[:length] for length in range(max(start, 0), len(content), 97)]
    changes += [
        content[:length] + b"\0" * 300 for length in range(max(start, 0), len(content), 301)
    ]
    changes += [content + b"more", b""]
    for change in changes:
        Disk.restore({**state, name: change}, out.parent)
        prepare(folder, out, skip_bad=True)
        assert out.read_bytes() == whole


def test_no_state_on_the_way_is_taken_for_a_whole_file(
    tmp_path: Path, states: tuple[bytes, list]
) -> None:
    whole, kept = states
    path = tmp_path / "taken.safetensors"
    refused = 0
    for content in (content for state in kept for content in state.values()):
        path.write_bytes(content)
        if content != whole:
            refused += 1
            with pytest.raises(DamagedFileError):
                load_images(path)
    assert refused > 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_command_goes_on(
    folder: Path, out: Path, small_steps: None, number: int
) -> None:
    known = out.with_name("known.safetensors")
    prepare(folder, known)
    watcher = Watcher(lambda: os.kill(os.getpid(), number), after=4)
    with pytest.raises(InterruptedRunError) as caught:
        prepare(folder, out, reporter=watcher)
    assert caught.value.exit_code == 128 + number
    assert watcher.seen == 4
    assert not out.exists()
    again = Watcher()
    prepare(folder, out, reporter=again)
    assert "continuing after 9 of 23 files" in again.said
    assert again.seen == 7
    assert out.read_bytes() == known.read_bytes()


def interrupted(source: Path, out: Path, **options) -> None:
    stop = Watcher(lambda: os.kill(os.getpid(), signal.SIGTERM), after=3)
    with pytest.raises(InterruptedRunError):
        prepare(source, out, reporter=stop, **options)


@pytest.mark.parametrize(
    ("options", "what"),
    [({"image_size": 4}, "image_size is null there, 4 now"), ({"channels": 1}, "channels is null")],
)
def test_other_options_do_not_destroy_what_is_unfinished(
    folder: Path, out: Path, small_steps: None, options, what: str
) -> None:
    interrupted(folder, out)
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    with pytest.raises(UsageError, match=what) as caught:
        prepare(folder, out, **options)
    assert "repeat that command" in caught.value.hint
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before
    prepare(folder, out)
    same(load_images(out), load_images(folder))


@pytest.mark.parametrize("change", ["changed", "added", "removed", "renamed"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_changed_source_is_noticed(
    folder: Path, out: Path, small_steps: None, change: str, packed: bool
) -> None:
    def source() -> Path:
        if not packed:
            return folder
        return Path(shutil.make_archive(str(folder.with_name("packed")), "zip", folder))

    interrupted(source(), out)
    one = folder / "c0" / "000.png"
    if change == "changed":
        one.write_bytes(images(1)[0])
    elif change == "added":
        (folder / "c0" / "new.png").write_bytes(images(1)[0])
    elif change == "removed":
        one.unlink()
    else:
        one.rename(one.with_name("0000.png"))
    with pytest.raises(UsageError, match="the source was changed since"):
        prepare(source(), out)
    for path in out.parent.iterdir():
        path.unlink()
    prepare(source(), out)
    same(load_images(out), load_images(folder))


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


def test_two_at_once_do_not_meet(folder: Path, out: Path, small_steps: None) -> None:
    refused = []

    def other() -> None:
        with pytest.raises(UsageError, match="another process is preparing it"):
            prepare(folder, out)
        refused.append(True)

    prepare(folder, out, reporter=Watcher(other, after=3))
    assert refused
    same(load_images(out), load_images(folder))


def test_a_file_that_comes_into_being_meanwhile_stays(
    folder: Path, out: Path, small_steps: None
) -> None:
    with pytest.raises(UsageError, match="meanwhile"):
        prepare(folder, out, reporter=Watcher(lambda: out.write_bytes(b"mine"), after=3))
    assert out.read_bytes() == b"mine"


def test_a_full_disk_is_one_message_and_the_same_command_goes_on(
    folder: Path, out: Path, small_steps: None, monkeypatch
) -> None:
    saves = [0]
    fsync = os.fsync

    def full(handle: int) -> None:
        saves[0] += 1
        if saves[0] > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(unfinished.os, "fsync", full)
        with pytest.raises(ResourceError, match="No space left") as caught:
            prepare(folder, out)
    assert "goes on" in caught.value.hint
    watcher = Watcher()
    prepare(folder, out, reporter=watcher)
    assert any("continuing after" in text for text in watcher.said)
    same(load_images(out), load_images(folder))


def test_a_disk_without_room_is_refused_before_anything_is_written(
    folder: Path, out: Path, monkeypatch
) -> None:
    usage = shutil.disk_usage(folder)._replace(free=N * 75)
    monkeypatch.setattr(preparing, "disk_usage", lambda _: usage)
    with pytest.raises(
        ResourceError, match=f"bytes more of the disk, {N * 75:,} are free"
    ) as caught:
        prepare(folder, out)
    needed = re.search(r"needs ([0-9,]+) bytes", caught.value.message)
    assert needed is not None
    assert int(needed[1].replace(",", "")) > N * 75
    assert left_in(out.parent) == []


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
