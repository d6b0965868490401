"""`torchrun -m dpdm_cli train`: as a user starts it, stops it and goes on with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import process_children as children

from dpdm_cli import verify
from dpdm_cli.checkpoint import read_tensors
from dpdm_cli.privacy.accounting.claims import planned
from dpdm_cli.privacy.plan_file import write_plan_file

pytestmark = pytest.mark.slow

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
WAIT = 300  # seconds; more than a busy machine needs

# `-m dpdm_cli`, which waits for a signal between the first step and the last, on however busy a machine.
SLOWLY = """
import os, select, signal
from dpdm_cli.__main__ import main
from dpdm_cli.training.trainer import Trainer

step = Trainer.step
came, comes = os.pipe()
os.set_blocking(comes, False)
signal.set_wakeup_fd(comes)


def step_slowly(self):
    if self.done:
        select.select([came], [], [], 60)
    step(self)


Trainer.step = step_slowly
main()
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    write_plan_file(tmp_path / "plan.json", planned(children.PLAN))
    (tmp_path / "slowly.py").write_text(SLOWLY)
    (tmp_path / "tiny.toml").write_text("width = 8\nembedding = 8\nmultipliers = [1]\n")
    return tmp_path / "plan.json"


def started(plan: Path, *program: str, more: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*program, "train", "digits", "--preset", "small", "--config", "tiny.toml"]
    command += ["--plan", "plan.json", "--micro-batch", "4", "--out", "run", "--log-losses", *more]
    command.append("--quiet")  # no forecast, whose steps are not those that wait
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "DPDM_TIMEOUT": "60"}
    variables["PYTHONPATH"] = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [*TORCHRUN, *command],
        cwd=plan.parent,
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def has_begun(folder: Path) -> None:
    """Wait for the end of the first step."""
    deadline = time.monotonic() + WAIT
    while not (folder / "run" / "private" / "losses.jsonl").exists():
        assert time.monotonic() < deadline, "no step was taken"
        time.sleep(0.02)


def state(folder: Path) -> dict[str, Any]:
    return read_tensors(folder / "run" / "private" / "state.safetensors", "state")[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_run_and_the_same_command_goes_on(
    number: signal.Signals, plan: Path
) -> None:
    process = started(plan, "slowly.py")
    has_begun(plan.parent)
    process.send_signal(number)
    printed, said = process.communicate(timeout=WAIT)
    assert process.returncode != 0
    assert printed == ""
    assert said.count("the state is saved") >= 1
    done = state(plan.parent)["done"]
    assert 1 <= done < children.PLAN.steps
    process = started(plan, "-m", "dpdm_cli", more=("--resume", "--json"))
    printed, said = process.communicate(timeout=WAIT)
    assert process.returncode == 0, said
    assert printed.count('"private": true') == 1  # one process speaks for both
    assert state(plan.parent)["done"] == children.PLAN.steps
    verify([plan.parent / "run"])


def test_a_process_that_is_killed_takes_the_run_down(plan: Path) -> None:
    process = started(plan, "slowly.py")
    has_begun(plan.parent)
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    children_of = [child for task in tasks for child in task.read_text().split()]
    os.kill(int(children_of[-1]), signal.SIGKILL)
    printed, said = process.communicate(timeout=WAIT)
    assert process.returncode != 0
    assert printed == ""
    assert "SIGKILL" in said or "Signal 9" in said
    assert not (plan.parent / "run" / "manifest.json").exists()
