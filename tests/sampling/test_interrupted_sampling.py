"""A sampling run that was cut off goes on when it is repeated; a folder of anything else is left alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from PIL import Image
from support.drawn import Listener, contents, draw, replace_with_room_for, save

from dpdm_cli import errors
from dpdm_cli.sampling import drawing, writing
from dpdm_cli.sampling.writing import FORMATS, Format

LOCK = ".sampling.lock.part"


def interrupt(checkpoint: Path, out: Path, after: int = 2, **changes: Any) -> None:
    with pytest.raises(errors.InterruptedRunError):
        draw(checkpoint, out, reporter=Listener(stop_after=after), **changes)


@pytest.mark.parametrize("format", FORMATS)
def test_an_interrupted_run_goes_on_and_ends_with_the_bytes_of_one_that_was_not(
    checkpoint: Path, tmp_path: Path, format: Format
) -> None:
    whole = draw(checkpoint, tmp_path / "whole", format=format)
    interrupt(checkpoint, tmp_path / "cut", format=format)
    assert not (tmp_path / "cut" / "metadata.json").exists()
    listener = Listener()
    rest = draw(checkpoint, tmp_path / "cut", format=format, reporter=listener)
    assert (rest.drawn, listener.done) == (14, 16)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert rest.metadata == whole.metadata


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_its_exit_code_and_whole_batches(
    checkpoint: Path, tmp_path: Path, number: int, code: int
) -> None:
    with pytest.raises(errors.InterruptedRunError) as caught:
        draw(checkpoint, tmp_path / "out", reporter=Listener(stop_after=1, number=number))
    assert caught.value.exit_code == code
    assert "8 of 30" in caught.value.message
    assert len(list((tmp_path / "out").rglob("*.png"))) == 8


def test_what_a_killed_process_leaves_is_checked_and_made_whole(
    checkpoint: Path, tmp_path: Path
) -> None:
    draw(checkpoint, tmp_path / "whole")
    interrupt(checkpoint, tmp_path / "cut", after=3)
    files = sorted((tmp_path / "cut").rglob("*.png"))
    by_index = {int(p.stem): p for p in files}
    by_index[1].write_bytes(by_index[1].read_bytes()[:20])
    by_index[10].write_bytes(b"")
    by_index[3].with_name(".000030.png.part").write_bytes(b"half")
    (tmp_path / "cut" / ".metadata.json.7.part").write_bytes(b"half")
    rest = draw(checkpoint, tmp_path / "cut")
    assert rest.drawn == 7 + 6 + 6
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_run_killed_before_its_last_word_ends_complete(checkpoint: Path, tmp_path: Path) -> None:
    whole = draw(checkpoint, tmp_path / "out")
    before = contents(tmp_path / "out")
    recorded = replace(whole.metadata, digests=None).to_json()
    (tmp_path / "out" / "metadata.json").unlink()
    (tmp_path / "out" / ".sampling.json").write_text(json.dumps(recorded))
    again = draw(checkpoint, tmp_path / "out")
    assert (again.drawn, again.metadata) == (0, whole.metadata)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("format", FORMATS)
def test_two_at_once_do_not_meet(
    checkpoint: Path, tmp_path: Path, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(checkpoint, tmp_path / "whole", format=format)
    generate, refused = drawing.generate, []

    def generating(*args: Any, **named: Any) -> torch.Tensor:
        with pytest.raises(errors.UsageError, match="another process draws into this") as caught:
            draw(checkpoint, tmp_path / "out", format=format)
        refused.append(caught.value)
        return generate(*args, **named)

    monkeypatch.setattr(drawing, "generate", generating)
    draw(checkpoint, tmp_path / "out", format=format)
    assert len(refused) == 4
    assert f"process {os.getpid()} on" in refused[0].message
    assert "wait for it" in refused[0].hint
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_run_that_fails_lets_go_of_its_folder(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.InterruptedRunError) as caught:
        draw(checkpoint, tmp_path / "out", reporter=Listener(stop_after=1))
    assert not (tmp_path / "out" / LOCK).exists()
    assert draw(checkpoint, tmp_path / "out").drawn == 22
    assert caught.tb  # what failed is still there, with all that it held


@pytest.mark.parametrize("state", ["new", "unfinished", "complete", "shards"])
def test_the_lock_of_a_killed_process_stops_nobody_and_is_removed(
    checkpoint: Path, tmp_path: Path, state: str
) -> None:
    draw(checkpoint, tmp_path / "whole")
    out = tmp_path / "out"
    if state == "unfinished":
        interrupt(checkpoint, out)
    elif state == "complete":
        draw(checkpoint, out)
    elif state == "shards":
        for number in (1, 2):
            draw(checkpoint, tmp_path / str(number), shard=(number, 2))
            shutil.copytree(tmp_path / str(number), out, dirs_exist_ok=True)
    out.mkdir(exist_ok=True)
    (out / LOCK).write_text(f"process {os.getpid()} on {socket.gethostname()}")
    draw(checkpoint, out)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_set_that_another_completes_meanwhile_is_checked_and_left_alone(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = filelock.FileLock

    def late(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(filelock, "FileLock", real)
        draw(checkpoint, tmp_path / "out")
        return real(*args, **options)

    monkeypatch.setattr(filelock, "FileLock", late)
    assert draw(checkpoint, tmp_path / "out").drawn == 0


def test_many_may_check_a_complete_set_and_where_they_cannot_write(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(checkpoint, tmp_path / "out")
    monkeypatch.setattr(filelock, "FileLock", None)
    assert draw(checkpoint, tmp_path / "out").drawn == 0


@pytest.mark.parametrize("format", FORMATS)
def test_a_complete_set_is_checked_said_to_be_complete_and_left_alone(
    checkpoint: Path, tmp_path: Path, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = draw(checkpoint, tmp_path / "out", format=format)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    monkeypatch.setattr(drawing, "generate", None)
    listener = Listener()
    again = draw(checkpoint, tmp_path / "out", format=format, reporter=listener)
    assert (again.drawn, again.metadata) == (0, first.metadata)
    assert any("is complete: 30 images" in note for note in listener.notes)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before


def test_a_complete_set_whose_images_were_changed_is_damaged(
    checkpoint: Path, tmp_path: Path
) -> None:
    draw(checkpoint, tmp_path / "out")
    Image.new("L", (4, 4)).save(tmp_path / "out" / "train" / "cat" / "000003.png")
    with pytest.raises(errors.DamagedFileError, match="drawn"):
        draw(checkpoint, tmp_path / "out")


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n": 29}, "n is 30 there, 29 now"),
        ({"seed": 1}, "seed"),
        ({"batch_size": 4}, "batch_size"),
        ({"format": "npz"}, "format"),
        ({"labels": ["dog"]}, "drawn"),
        ({"proportions": [0.2, 0.3, 0.5]}, "proportions"),
        ({"mark": False}, "marked"),
        ({"steps": 4}, "sampler"),
        ({"steps": 3, "guidance": 0.5}, "sampler"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_untouched(
    checkpoint: Path, tmp_path: Path, changes: dict[str, Any], named: str, complete: bool
) -> None:
    if complete:
        draw(checkpoint, tmp_path / "out")
    else:
        interrupt(checkpoint, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(errors.UsageError, match=named):
        draw(checkpoint, tmp_path / "out", **changes)
    assert contents(tmp_path / "out") == before


def test_a_folder_of_another_models_images_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    draw(checkpoint, tmp_path / "out")
    other = save(tmp_path / "other.safetensors", dataset="mnist")
    with pytest.raises(errors.UsageError, match="checkpoint_sha256"):
        draw(other, tmp_path / "out")


@pytest.mark.parametrize("name", ["photo.png", "metadata.json", "grid.png", "notes/a.txt"])
def test_a_folder_that_holds_something_else_is_refused_and_untouched(
    checkpoint: Path, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(errors.UsageError, match="not empty"):
        draw(checkpoint, tmp_path / "out")
    assert contents(tmp_path / "out") == {name: b"{}"}


def test_a_file_is_no_folder_for_images(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(errors.UsageError, match="not a folder"):
        draw(checkpoint, tmp_path / "out")


def test_an_empty_folder_is_taken(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert draw(checkpoint, tmp_path / "out", n=3).drawn == 3


def test_a_damaged_record_is_named(checkpoint: Path, tmp_path: Path) -> None:
    interrupt(checkpoint, tmp_path / "out")
    (tmp_path / "out" / ".sampling.json").write_text('{"n": 3')
    with pytest.raises(errors.DamagedFileError, match=r"\.sampling\.json"):
        draw(checkpoint, tmp_path / "out")


def test_the_batch_size_of_a_begun_set_is_kept_when_none_is_given(
    checkpoint: Path, tmp_path: Path
) -> None:
    interrupt(checkpoint, tmp_path / "out")
    assert draw(checkpoint, tmp_path / "out", batch_size=None).metadata.batch_size == 8


def test_a_full_disk_is_a_lack_of_resources_and_the_same_call_goes_on(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(checkpoint, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(writing.os, "replace", replace_with_room_for(12))
        with pytest.raises(errors.ResourceError, match="No space left"):
            draw(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out" / "metadata.json").exists()
    for file in (tmp_path / "out").rglob("*.png"):
        Image.open(file).verify()
    assert draw(checkpoint, tmp_path / "out").drawn in range(1, 31)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_too_little_memory_is_a_lack_of_resources(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*args: Any, **named: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(drawing, "generate", exhausted)
    with pytest.raises(errors.ResourceError) as caught:
        draw(checkpoint, tmp_path / "out")
    assert "--batch-size" in caught.value.hint
