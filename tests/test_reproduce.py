"""`examples/reproduce/run.sh`: a row that is interrupted goes on, is recorded once, and is tested once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
WAIT = 300


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The scripts, which write beside themselves, without what was measured."""
    folder = tmp_path / "reproduce"
    shutil.copytree(
        REPOSITORY / "examples" / "reproduce",
        folder,
        ignore=shutil.ignore_patterns("grids", "__pycache__"),
    )
    (folder / "results.jsonl").write_text("")
    (tmp_path / "bin").mkdir()
    for name, called in (("dpdm", "-m dpdm_cli"), ("python", "")):
        command = tmp_path / "bin" / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {called} "$@"\n')
        command.chmod(0o755)
    return folder


def row(copy: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    path = f"{copy.parent / 'bin'}:{os.environ['PATH']}"
    places = {"RUNS": str(copy.parent / "rows"), "PYTHONPATH": str(REPOSITORY), "PATH": path}
    return subprocess.Popen(
        ["bash", str(copy / "run.sh"), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **places, **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def lines(copy: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (copy / "results.jsonl").read_text().splitlines()]


def test_a_row_that_was_interrupted_goes_on_and_is_recorded_once(copy: Path) -> None:
    first = row(copy, "digits", "10", "tiny")
    assert first.stdout is not None
    said = ""
    while "training: " not in said:
        line = first.stdout.readline()
        assert line, said
        said += line
    os.killpg(first.pid, signal.SIGTERM)
    said += first.communicate(timeout=WAIT)[0]
    assert first.returncode != 0, said
    assert "the state is saved" in said
    assert lines(copy) == []

    second = row(copy, "digits", "10", "tiny")
    said = second.communicate(timeout=WAIT)[0]
    assert second.returncode == 0, said
    (found,) = lines(copy)
    assert found["steps"] == 100
    assert all(0 <= float(str(found[name])) <= 100 for name in ("logreg", "mlp", "cnn"))
    seconds = (copy.parent / "rows" / "digits-10-tiny.seconds").read_text().split()
    assert len(seconds) >= 2
    assert found["minutes"] == pytest.approx(sum(map(int, seconds)) / 60, abs=0.2)

    third = row(copy, "digits", "10", "tiny")
    said = third.communicate(timeout=WAIT)[0]
    assert third.returncode == 0, said
    assert "was recorded" in said
    assert len(lines(copy)) == 1


def test_a_budget_that_is_none_is_refused_before_anything_is_written(copy: Path) -> None:
    process = row(copy, "digits", "10", "cpu31")
    said = process.communicate(timeout=WAIT)[0]
    assert process.returncode == 2
    assert "unknown budget cpu31" in said
    assert not (copy.parent / "rows").exists()
