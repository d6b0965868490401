"""What commands say of mistakes and of themselves: what, where, and what to do, in words that are true."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from test_app import COMMANDS
from typer.testing import CliRunner

from dpdm_cli.commands.app import app
from dpdm_cli.data.readers.public_sets import default_data_dir


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "300"})
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    "command", [["sample", "-n", "3"], ["release", "out"], ["verify"], ["audit"]], ids=" ".join
)
@pytest.mark.parametrize("name", ["statement.json", "grid.png"])
def test_a_file_beside_the_model_is_not_called_a_damaged_one(
    command: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(
        b'{"private": true}' if name.endswith("json") else b"\x89PNG\r\n\x1a\n.."
    )
    code, _, said = run(command[0], name, *command[1:])
    assert code == 4
    assert said.startswith(f"error: {name} is not a model file (safetensors)\n")
    assert "model.safetensors" in said


def test_a_file_that_is_no_npz_is_judged_as_one(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    file.write_bytes(b"no arrays")
    code, _, said = run("classify", file, "--test", "digits")
    assert code == 3
    assert f"{file} cannot be read as an .npz file: " in said
    assert "zip archive" not in said


def test_an_evaluation_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "scores.md"
    release = ("release", tmp_path / "run", tmp_path / "out", "--evaluation", file)
    code, _, said = run(*release)
    assert code == 3
    assert said.splitlines()[0] == (
        f"error: {file}: cannot read the evaluation: No such file or directory"
    )
    file.write_bytes(b"\xff\xfe\x00")
    code, _, said = run(*release)
    assert code == 3
    assert said.splitlines()[0] == f"error: {file}: the evaluation is not UTF-8 text"


def test_a_configuration_that_is_no_toml_is_a_mistake_in_the_command(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("steps = 'many'")
    code, _, said = run("train", "digits", "--preset", "small", "--config", file, "--dry-run")
    assert code == 2
    assert f"steps is 'many' ({file}), expected a whole number\n" in said
    file.write_text("steps =")
    code, _, said = run("train", "digits", "--preset", "small", "--config", file, "--dry-run")
    assert code == 2
    assert f"{file}: not a TOML file" in said


@pytest.mark.skipif(sys.platform != "linux", reason="XDG_CACHE_HOME is for Linux")
def test_data_sets_and_statistics_lie_in_one_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.delenv("DPDM_CACHE_DIR", raising=False)
    samples = tmp_path / "x.npz"
    np.savez(samples, images=np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8))
    words = ("fid", samples, "--extractor", "pixels", "--against")
    for further in ([samples], [samples, "--no-cache"], ["digits", "--no-cache"]):
        assert run(*words, *further)[0] == 0
        assert not cache.exists()
    assert run(*words, samples, "--cache-dir", tmp_path / "own")[0] == 0
    code, _, said = run(*words, "digits")
    assert code == 0
    assert f"kept in {cache / 'dpdm' / 'private'}" in said
    assert (os.listdir(cache), os.listdir(tmp_path / "own")) == (["dpdm"], ["private"])
    monkeypatch.delenv("DPDM_DATA_DIR", raising=False)
    assert default_data_dir() == cache / "dpdm" / "data"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_how_it_is_called(name: str) -> None:
    text = " ".join(run(name, "--help")[1].split())
    _, usage, rest = text.partition("[OPTIONS]")
    assert usage
    assert f": dpdm {name} " in rest


def test_the_help_of_seed_names_all_that_an_image_depends_on() -> None:
    text = " ".join(run("sample", "--help")[1].split())
    assert "on the seed, i, its class, the batch size and the kind of device alone" in text
