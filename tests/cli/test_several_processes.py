"""The commands under torchrun: the first process speaks for all, and an error says whose it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from drawn import contents, draw, save
from processes_launcher import launch
from typer.testing import CliRunner

from dpdm_cli.commands.app import app
from dpdm_cli.launched import rank
from dpdm_cli.runs import drawing

Said = tuple[int, str, str]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model.safetensors")


def run(*arguments: object) -> Said:
    """Exit code, stdout and stderr of a command in this process."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def run_in(size: int, *arguments: object) -> list[Said]:
    return launch(size, run, *arguments)


def interrupted(*arguments: object) -> Said:
    """The same, with a SIGTERM to the second process as it draws."""
    generate = drawing.generate

    def stopped(*args: Any, **named: Any) -> Any:
        if rank() == 1:
            os.kill(os.getpid(), 15)
        return generate(*args, **named)

    drawing.generate = stopped
    return run(*arguments)


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "-m", "dpdm_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_torchrun_draws_the_files_of_one_process_and_says_so_once(
    checkpoint: Path, tmp_path: Path
) -> None:
    draw(checkpoint, tmp_path / "one")
    words = ("sample", checkpoint, "-n", 30, "-B", 8, "--steps", 3, "--device", "cpu", "--json")
    done = torchrun(*words, "-o", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n"] == 30
    assert done.stderr.count("30/30 images") == done.stderr.count("in 2 processes") == 1
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_the_first_alone_prints_the_result_the_notes_and_the_warnings(
    checkpoint: Path, tmp_path: Path
) -> None:
    public = save(tmp_path / "m.safetensors", statement={"private": False, "text": "NOT PRIVATE"})
    words = ("sample", public, "-n", 5, "-B", 2, "--steps", 2, "--device", "cpu", "-o")
    first, *others = run_in(3, *words, tmp_path / "out")
    assert first[0] == 0
    assert "5 in" in first[1]
    assert "NOT PRIVATE" in first[2]
    assert "sampling: 5/5 images" in first[2]
    assert others == [(0, "", "")] * 2


def test_fid_is_the_figure_of_one_process_printed_and_kept_once(
    checkpoint: Path, tmp_path: Path
) -> None:
    draw(checkpoint, tmp_path / "synth", n=13)
    words = ("fid", tmp_path / "synth", "--against", "digits", "--extractor", "pixels", "--json")
    words = (*words, "--batch-size", "5", "--device", "cpu", "--cache-dir")
    code, out, _ = run(*words, tmp_path / "one")
    assert code == 0
    one = json.loads(out)
    for again in range(2):  # the second time from the cache
        (code, out, err), *others = run_in(4, *words, tmp_path / "four")
        assert code == 0
        four = json.loads(out)
        for split, figure in one["fid"].items():
            assert four["fid"].pop(split) == pytest.approx(figure, rel=1e-6)
        assert {**four, "fid": 0} == {**one, "fid": 0}
        assert ("features of digits" in err) == (again == 0)
        assert others == [(0, "", "")] * 3
    assert len(list((tmp_path / "four").rglob("*.npz"))) == 2


def test_fid_of_images_that_can_not_be_read_fails_in_all(tmp_path: Path) -> None:
    (tmp_path / "synth.npz").write_bytes(b"nothing")
    first, second = run_in(
        2, "fid", tmp_path / "synth.npz", "--against", "digits", "--extractor", "pixels"
    )
    assert first[0] == second[0] == 3
    assert first[2].startswith("error: process 0: ")
    assert second[2] == first[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["calibrate", "--eps", 1],
        ["classify", "synth"],
        ["verify", "run"],
        ["release", "run", "out"],
        ["audit"],
    ],
    ids=str,
)
def test_what_works_in_one_process_refuses_several_with_one_message(
    arguments: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for number, said in (("0", f"error: dpdm {arguments[0]} works in one process"), ("1", "")):
        monkeypatch.setenv("RANK", number)
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.splitlines()[:1] == ([said] if said else [])


def test_an_error_says_whose_it_is(checkpoint: Path, tmp_path: Path) -> None:
    words = ("sample", tmp_path / "absent", "-n", 3, "--device", "cpu", "-o", tmp_path / "out")
    for number, (code, out, err) in enumerate(run_in(2, *words)):
        assert (code, out) == (3, "")
        assert err.startswith(f"error: process {number}: ")


def test_options_that_make_no_sense_are_refused_by_all_and_named_once(
    checkpoint: Path, tmp_path: Path
) -> None:
    words = ("sample", checkpoint, "-n", 3, "--device", "cpu", "-o", tmp_path / "out")
    for wrong in (("--labels", "z"), ("--shard", "1/2"), ("--steps", 0)):
        first, second = run_in(2, *words, *wrong)
        assert (first[0], second) == (2, (2, "", ""))
        assert first[2].startswith("error: ")
        assert "process 0" not in first[2]
    assert not (tmp_path / "out").exists()


def test_an_interruption_is_told_once_and_has_its_exit_code_everywhere(
    checkpoint: Path, tmp_path: Path
) -> None:
    words = ("sample", checkpoint, "-n", 30, "-B", 8, "--steps", 2, "--device", "cpu", "-q", "-o")
    first, second = launch(2, interrupted, *words, tmp_path / "out")
    assert first[:2] == (143, "")
    assert "interrupted: 16 of 30 images" in first[2]
    assert second == (143, "", "")


def test_a_shard_is_named_in_the_table_and_in_json(checkpoint: Path, tmp_path: Path) -> None:
    words = ("sample", checkpoint, "-n", 30, "-B", 8, "--steps", 2, "--device", "cpu", "-o")
    words = (*words, tmp_path / "out", "--shard", "2/3")
    code, out, _ = run(*words)
    assert code == 0
    assert "8, shard 2/3 of 30, in" in out
    _, out, _ = run(*words, "--json")
    values = json.loads(out)
    assert (values["n"], values["shard"]) == (8, {"number": 2, "of": 3, "whole_n": 30})


@pytest.mark.parametrize("wrong", ["0/4", "5/4", "x"])
def test_a_shard_that_is_none_ends_with_the_code_for_usage(
    checkpoint: Path, tmp_path: Path, wrong: str
) -> None:
    code, _, err = run("sample", checkpoint, "-n", 3, "-o", tmp_path / "out", "--shard", wrong)
    assert code == 2
    assert err.startswith(f"error: there is no shard '{wrong}'")
    assert not (tmp_path / "out").exists()
