"""A call of `dpdm prepare` that was cut off goes on when it is repeated, and ends in the same file."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from support.preparing import N, Watcher, images, interrupted, left_in, same

from dpdm_cli import files
from dpdm_cli.data import load_images
from dpdm_cli.data.prepare import preparing, unfinished
from dpdm_cli.data.prepare.preparing import prepare
from dpdm_cli.errors import (
    DamagedFileError,
    InterruptedRunError,
    ResourceError,
    UsageError,
)


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
