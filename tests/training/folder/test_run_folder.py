"""The folder of a run: who may have it, and what is left when nothing was saved."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from support import tiny
from support.statements import state_of

from dpdm_cli.errors import DataError, ResourceError, UsageError
from dpdm_cli.training.folder.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def save(folder: RunFolder) -> None:
    folder.save_state({"weight": torch.zeros(2)}, state_of(tiny.ledger(tiny.plan(), 1)))


def begin_and_save(folder: RunFolder) -> None:
    with folder.open(resume=False):
        save(folder)


@pytest.mark.parametrize("saved", [False, True])
def test_a_folder_that_another_run_holds_is_refused(folder: RunFolder, saved: bool) -> None:
    other = RunFolder(folder.path)
    with folder.open(resume=False):
        if saved:
            save(folder)
        before = sorted(folder.path.rglob("*"))
        with pytest.raises(UsageError, match="another run holds") as caught:
            other.open(resume=saved).__enter__()
        assert f"process {os.getpid()} on" in caught.value.message
        assert "stop it, or choose another --out" in caught.value.hint
        assert sorted(folder.path.rglob("*")) == before
    with other.open(resume=saved):
        pass


@pytest.mark.parametrize(
    "holder",
    ["", f"process {os.getpid()} on {socket.gethostname()}", "process 1 on elsewhere"],
    ids=["nobody", "this process", "another"],
)
def test_what_a_killed_run_held_is_free(folder: RunFolder, holder: str) -> None:
    begin_and_save(folder)
    (folder.private / "lock").write_text(holder)
    with folder.open(resume=True):
        assert (folder.private / "lock").exists()
    assert not (folder.private / "lock").exists()


def test_a_run_that_comes_and_goes_while_another_begins_is_not_lost(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = filelock.FileLock

    def late(*args: Any, **options: Any) -> object:
        monkeypatch.setattr(filelock, "FileLock", real)
        begin_and_save(RunFolder(folder.path))
        return real(*args, **options)

    monkeypatch.setattr(filelock, "FileLock", late)
    with pytest.raises(UsageError, match="not empty"), folder.open(resume=False):
        pass
    assert folder.load_state()[1].done == 1


@pytest.mark.parametrize("log_losses", [False, True])
def test_a_run_that_failed_before_it_saved_leaves_nothing(
    folder: RunFolder, log_losses: bool
) -> None:
    with suppress(ZeroDivisionError), folder.open(resume=False):
        if log_losses:
            folder.losses.write_text('{"step": 1, "loss": 9.0}\n')
        raise ZeroDivisionError
    assert not folder.path.exists()


def test_a_run_that_was_killed_before_it_saved_can_be_begun_again(folder: RunFolder) -> None:
    folder.private.mkdir(parents=True)
    for name in ("README.txt", "lock", ".state.safetensors.7.part", "losses.jsonl"):
        (folder.private / name).write_text("left over")
    with folder.open(resume=False):
        # Losses of steps that are taken anew would be there twice.
        assert {entry.name for entry in folder.private.iterdir()} == {"README.txt", "lock"}


def test_what_was_saved_stays_when_a_run_fails(folder: RunFolder) -> None:
    begin_and_save(folder)
    folder.losses.write_text("{}\n")
    with pytest.raises(ZeroDivisionError), folder.open(resume=True):
        raise ZeroDivisionError
    assert {entry.name for entry in folder.private.iterdir()} == {
        "README.txt",
        "losses.jsonl",
        "state.safetensors",
    }


def test_what_is_not_of_a_run_is_refused_and_stays(folder: RunFolder) -> None:
    folder.private.mkdir(parents=True)
    (folder.private / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"), folder.open(resume=False):
        pass
    with pytest.raises(DataError, match="no run to resume"), folder.open(resume=True):
        pass
    assert [entry.name for entry in folder.path.rglob("*")] == ["private", "notes.txt"]


def test_a_folder_cannot_be_made_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    folder = RunFolder(tmp_path / "file" / "run")
    with pytest.raises(ResourceError, match="Not a directory") as caught, folder.open(resume=False):
        pass
    assert str(folder.path) in caught.value.message
    assert caught.value.hint == "choose another --out"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.ENAMETOOLONG])
@pytest.mark.parametrize("what", ["mkdir", "open", "exists"])
def test_a_place_that_cannot_be_written_is_a_lack_of_resources(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    def refuse(*args: object, **named: object) -> None:
        raise OSError(number, os.strerror(number), str(folder.path))

    with monkeypatch.context() as patch:
        patch.setattr(os if what == "open" else Path, what, refuse)
        with pytest.raises(ResourceError) as caught, folder.open(resume=False):
            pass
    assert caught.value.message == f"{folder.path}: cannot write: {os.strerror(number)}"
    with folder.open(resume=False):
        pass


@pytest.mark.parametrize("error", [PermissionError, NotADirectoryError, FileNotFoundError])
def test_what_fails_elsewhere_during_the_run_is_not_blamed_on_the_folder(
    folder: RunFolder, error: type[OSError]
) -> None:
    with pytest.raises(error, match="elsewhere"), folder.open(resume=False):
        raise error("elsewhere")
