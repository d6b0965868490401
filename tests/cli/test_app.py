"""The command as a whole: what it imports, what it says of itself, how it fails."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dpdm_cli import __version__
from dpdm_cli.commands.app import app

COMMANDS = (
    "calibrate",
    "prepare",
    "train",
    "sample",
    "fid",
    "classify",
    "verify",
    "audit",
    "release",
    "report",
    "compare",
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_imports_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom dpdm_cli.commands.app import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'torchvision', 'opacus', 'sklearn', 'scipy', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = python(code)
    assert result.returncode == 0, result.stderr


def test_the_package_offers_its_commands_as_functions_without_importing_torch() -> None:
    result = python(
        "import sys, dpdm_cli\nassert 'torch' not in sys.modules\n"
        "dpdm_cli.calibrate\nassert 'torch' not in sys.modules\n"
        "assert all(callable(getattr(dpdm_cli, n)) for n in dpdm_cli.__all__ if n != '__version__')"
    )
    assert result.returncode == 0, result.stderr


def test_python_dash_m_is_the_same_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "dpdm_cli", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == f"dpdm {__version__}"


@pytest.mark.parametrize("processes", ["1", "2", "a few"])
@pytest.mark.parametrize(("command", "code"), [("--version", 0), ("no-such-command", 2)])
def test_one_of_several_processes_ends_as_one_alone_does(
    processes: str, command: str, code: int
) -> None:
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "import atexit, sys\nfrom dpdm_cli.__main__ import main\n"
            f"atexit.register(print, 'cleaned up')\nsys.argv = ['dpdm', {command!r}]\nmain()",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "WORLD_SIZE": processes},
    )
    assert result.returncode == code
    assert result.stdout == (f"dpdm {__version__}\n" if code == 0 else "") + "cleaned up\n"
    assert bool(result.stderr) == bool(code)


def test_every_command_offers_json_and_quiet() -> None:
    for name in COMMANDS:
        text = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
        assert "--json" in text, name
        assert "--quiet" in text, name


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["train", "digits", "--no-such-option"], 2),
        (["train", "/no/such/folder", "--out", "OUT"], 3),
        (["train", "digits", "--delta", "0.5", "--out", "OUT"], 5),
        (["train", "digits", "--eps", "nan", "--out", "OUT"], 2),
        (["train", "digits", "--preset", "huge", "--out", "OUT"], 2),
        (["sample", "/no/such/model.safetensors", "-n", "3"], 3),
        (["classify", "/no/such/folder", "--test", "digits"], 3),
        (["calibrate", "--eps", "-1", "--delta", "1e-5"], 2),
    ],
)
def test_mistakes_have_their_exit_codes_and_no_traceback(
    arguments: list[str], code: int, tmp_path: object
) -> None:
    result = CliRunner().invoke(app, [str(tmp_path) if a == "OUT" else a for a in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
