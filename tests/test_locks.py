"""Files that one process holds: by the kernel, until it ends, whatever they say."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest

from dpdm_cli.data.prepare.unfinished import Unfinished
from dpdm_cli.errors import UsageError
from dpdm_cli.files import lock_file

HOLD = """
import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path
from dpdm_cli.files import lock_file
with lock_file(Path(sys.argv[1]), "it is held"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_who_comes_second_is_told_who_holds_it_and_what_to_do(path: Path) -> None:
    with lock_file(path, "run: another run holds this folder"):
        with pytest.raises(UsageError) as caught, lock_file(path, "run: another run holds it"):
            pass
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        assert caught.value.message == f"run: another run holds it ({owner})"
        assert caught.value.hint == (
            f"wait for it, stop it, or choose another --out; if its machine is lost, delete {path}"
        )
    assert not path.exists()
    with lock_file(path, ""):
        pass


def test_it_is_held_whatever_it_says(path: Path) -> None:
    with lock_file(path, ""):
        for text in (b"", b"process 999999999 on nowhere", b"\xff" * 10_000):
            path.write_bytes(text)
            with pytest.raises(UsageError) as caught, lock_file(path, "it is held"):
                pass
            assert len(caught.value.message) < 300
            assert path.read_bytes() == text


@pytest.mark.parametrize(
    "text",
    [b"", f"process {os.getpid()} on {socket.gethostname()}".encode(), b"process 1 on elsewhere"],
    ids=["nothing", "this process", "another"],
)
def test_one_that_nobody_holds_is_taken_whatever_it_says(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    with lock_file(path, ""):
        assert path.read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    assert not path.exists()


def test_the_kernel_frees_that_of_a_killed_process(path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match=f"process {process.pid} on"), lock_file(path, "held"):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert path.exists()
    with lock_file(path, ""):
        pass


@pytest.mark.parametrize("is_new", [False, True])
def test_one_that_is_removed_while_it_is_opened_is_not_taken_for_held(
    path: Path, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    """Its owner ended between the opening and the lock; another may hold one of the same name by now."""
    flock, others = fcntl.flock, ExitStack()

    def late(file: Any, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        path.unlink()
        if is_new:
            others.enter_context(lock_file(path, "another"))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    refused = pytest.raises(UsageError, match="it is held")
    with others, refused if is_new else nullcontext(), lock_file(path, "it is held"):
        assert path.exists()
        with pytest.raises(UsageError), lock_file(path, "it is held"):
            pass


def test_what_another_holds_meanwhile_is_not_removed(path: Path) -> None:
    """Somebody was told to delete the lock of a lost machine, which was not lost."""
    with ExitStack() as other:
        with lock_file(path, ""):
            path.unlink()
            other.enter_context(lock_file(path, ""))
        assert path.exists()
        with pytest.raises(UsageError), lock_file(path, ""):
            pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_everybody_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(file: Any, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_file(path, ""), lock_file(path, ""):
        pass
    assert not path.exists()


def test_a_share_that_says_no_permission_means_held(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: Any, operation: int) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UsageError, match="it is held"), lock_file(path, "it is held"):
        pass


def test_a_full_disk_costs_it_its_text_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> int:
        path.open("w").close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path.write_text("process 1 on elsewhere")
    monkeypatch.setattr(Path, "write_text", full)
    refused = pytest.raises(UsageError, match="has not said which")
    with lock_file(path, ""), refused, lock_file(path, ""):
        pass


def test_one_process_at_a_time_prepares_a_file(tmp_path: Path) -> None:
    out, request = tmp_path / "x.safetensors", {"files": 1}
    refused = pytest.raises(UsageError, match="another process is preparing it")
    with Unfinished(out, request, 8, 1).open(), refused, Unfinished(out, request, 8, 1).open():
        pass
    assert not any(tmp_path.iterdir())
