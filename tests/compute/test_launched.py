"""How a process was started: the command that may be pasted again."""

from __future__ import annotations

import shlex
import sys

import pytest

from dpdm_cli.compute.launched import command_line

WORDS = ["train", "my images", "--classes", "a'b,c $d"]


@pytest.mark.parametrize(
    ("program", "processes", "start"),
    [
        ("/usr/bin/dpdm", "1", ["dpdm"]),
        ("dpdm", "2", ["dpdm"]),
        ("/somewhere/dpdm_cli/__main__.py", "1", ["python", "-m", "dpdm_cli"]),
        ("/somewhere/dpdm_cli/__main__.py", "2", ["torchrun", "...", "-m", "dpdm_cli"]),
    ],
)
def test_a_command_is_what_was_typed(
    program: str, processes: str, start: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program, *WORDS])
    monkeypatch.setenv("WORLD_SIZE", processes)
    assert shlex.split(command_line() or "") == [*start, *WORDS]


@pytest.mark.parametrize("program", ["", "notebook.py", "/somewhere/pytest/__main__.py"])
def test_another_program_has_no_such_command(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [program, *WORDS])
    assert command_line() is None
