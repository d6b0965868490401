"""Faults put into real processes: whatever happens, a run is whole, can go on, and claims what it did."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import fault_children
from support.forkserver import server

from dpdm_cli import verify
from dpdm_cli.checkpoint import load_model, read_tensors
from dpdm_cli.files import is_left_over
from dpdm_cli.privacy.accounting.claims import planned
from dpdm_cli.privacy.plan_file import write_plan_file

pytestmark = pytest.mark.slow

FILES = 1 + fault_children.STEPS + 4
"""The notice, a state for each step, the model, the statement, the samples, the manifest."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faults") / "plan.json"
    write_plan_file(path, planned(fault_children.PLAN))
    return path


def child(out: Path, plan: Path, resume: bool, fault: str = "", number: int = 0) -> int:
    """The exit code of a training process."""
    process = start(out, plan, resume, fault, number)
    process.join(120)
    assert process.exitcode is not None, "the process hangs"
    return process.exitcode


def start(
    out: Path, plan: Path, resume: bool, fault: str = "", number: int = 0
) -> multiprocessing.process.BaseProcess:
    process = server().Process(target=fault_children.train, args=(out, plan, resume, fault, number))
    process.start()
    return process


def whole(out: Path) -> None:
    """What lies under a final name is whole, and nothing published goes beyond the ledger."""
    state = out / "private" / "state.safetensors"
    steps = read_tensors(state, "state")[1]["ledger"]["releases"] if state.is_file() else 0
    if (out / "model.safetensors").is_file():
        assert load_model(out / "model.safetensors").statement.ledger.steps <= steps
    if (out / "manifest.json").is_file():
        verify([out])


def goes_on(out: Path, plan: Path) -> None:
    """The same command again, or with --resume where something was saved, ends in a run that verifies."""
    saved = (out / "private" / "state.safetensors").is_file()
    assert child(out, plan, resume=saved) == 0
    (found,) = verify([out]).artefacts
    assert found.ledger.steps == fault_children.STEPS
    assert not [path for path in out.rglob("*") if is_left_over(path)]


@pytest.mark.parametrize("number", range(3 * FILES))
def test_killed_at_every_write_point(number: int, plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert child(out, plan, False, "killed_at_write_point", number) == -signal.SIGKILL
    whole(out)
    goes_on(out, plan)


@pytest.mark.parametrize("number", range(20))
def test_killed_at_a_random_time(number: int, plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert child(out, plan, False, "killed_at_random", number) in (-signal.SIGKILL, 0)
    if out.exists():
        whole(out)
    goes_on(out, plan)


@pytest.mark.parametrize("room", [100, 3_000, 20_000])
def test_a_full_disk_ends_the_run_and_loses_nothing(room: int, plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert child(out, plan, False, "no_room", room) == 6
    if out.exists():
        whole(out)
    goes_on(out, plan)


@pytest.mark.parametrize("where", ["backward", "noise", "save"])
def test_out_of_memory_ends_the_run_and_keeps_what_was_saved(
    where: str, plan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert child(out, plan, False, f"no_memory_in_{where}") == 6
    whole(out)
    goes_on(out, plan)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("times", [1, 2])
def test_signals_save_and_stop_and_twice_stop_at_once(
    number: int, times: int, plan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    signed = number if times == 1 else -number
    assert child(out, plan, False, "signals", signed) == 128 + number
    whole(out)
    _, facts = read_tensors(out / "private" / "state.safetensors", "state")
    assert facts["done"] == facts["ledger"]["releases"] == (2 if times == 1 else 1)
    goes_on(out, plan)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_two_signals_of_one_request_save_and_stop(number: int, plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert child(out, plan, False, "signals_together", number) == 128 + number
    assert read_tensors(out / "private" / "state.safetensors", "state")[1]["done"] == 2
    goes_on(out, plan)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def halted(process: multiprocessing.process.BaseProcess) -> Iterator[None]:
    assert process.pid
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def test_two_runs_in_one_folder_do_not_meet(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = start(out, plan, False, "none")
    wait_for(out / "private" / "README.txt")
    with halted(first):
        assert child(out, plan, False) == 2
    wait_for(out / "private" / "state.safetensors")
    with halted(first):
        # As who looks between the making of the lock and the writing of it sees it.
        (out / "private" / "lock").write_bytes(b"")
        assert child(out, plan, True) == 2
    first.join(120)
    assert first.exitcode == 0
    verify([out])


@pytest.mark.parametrize(
    ("saved", "holder"),
    [
        (False, "process 1 on another-node"),
        (True, "process 1 on another-node"),
        (True, f"process {os.getpid()} on {socket.gethostname()}"),
    ],
    ids=["unsaved", "elsewhere", "same names"],
)
def test_a_killed_run_goes_on_wherever_it_ran(
    saved: bool, holder: str, plan: Path, tmp_path: Path
) -> None:
    """Requeued to another machine; or begun again in a pod, whose processes have the names and numbers of before."""
    out = tmp_path / "run"
    process = start(out, plan, False, "none")
    wait_for(out / "private" / ("state.safetensors" if saved else "README.txt"))
    process.kill()
    process.join(60)
    (out / "private" / "lock").write_text(holder)
    goes_on(out, plan)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "foreign"])
def test_a_damaged_state_is_refused_and_left_as_it_is(
    damage: str, plan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    child(out, plan, False, "signals", signal.SIGTERM)
    state = out / "private" / "state.safetensors"
    content = bytearray(state.read_bytes())
    if damage == "flipped":
        content[-100] ^= 1
    elif damage == "truncated":
        del content[-100:]
    else:
        content = bytearray(b"\x80\x04.")
    state.write_bytes(content)
    assert child(out, plan, True) == 4
    assert state.read_bytes() == content
    assert not (out / "model.safetensors").exists()
