"""The commands under torchrun: the first process speaks for all, and an error says whose it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.drawn import contents, draw, save
from support.processes_launcher import Exited, launch
from typer.testing import CliRunner

from dpdm_cli.commands.app import app
from dpdm_cli.compute.launched import rank
from dpdm_cli.errors import ResourceError
from dpdm_cli.evaluation import scoring
from dpdm_cli.evaluation.distances.frechet import FeatureStatistics
from dpdm_cli.evaluation.features import weights
from dpdm_cli.evaluation.features.extractors import PixelExtractor
from dpdm_cli.files import sha256_of
from dpdm_cli.privacy.statement import non_private_statement
from dpdm_cli.sampling import drawing

pytestmark = pytest.mark.slow

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


def faulty_fid(fault: str, at: int, folder: Path) -> Said:
    """`dpdm fid` with something that happens to one process at its second batch."""
    extract, begun = PixelExtractor.__call__, 0

    def extracted(self: PixelExtractor, images: torch.Tensor) -> torch.Tensor:
        nonlocal begun
        begun += 1
        if begun == 2 and rank() == at:
            if fault == "memory":
                raise torch.OutOfMemoryError("no more")
            if fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(3600)
        return extract(self, images)

    PixelExtractor.__call__ = extracted  # type: ignore[method-assign]
    words = ("fid", folder / "synth", "--against", "digits", "--split", "test", "--extractor")
    words = (*words, "pixels", "--batch-size", 5, "--device", "cpu", "--cache-dir", folder)
    return run(*words)


class Layers(torch.nn.Module):
    """Stands for Inception: [B, 3, 299, 299] to 2048 features."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = torch.nn.functional.adaptive_avg_pool2d(x, [8, 8]).flatten(1)
        return torch.nn.functional.pad(pooled, [0, 2048 - 192])


class StandIn(torch.nn.Module):
    """What the published file holds: clean-fid calls `layers` alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def compared_by_inception(folder: Path, cache: Path) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """What `dpdm fid` takes the distance of."""
    compared = []

    def taken(*both: FeatureStatistics) -> float:
        compared.extend((s.count, s.mean.numpy(), s.scatter.numpy()) for s in both)
        return 0.0

    scoring.frechet_distance = taken
    weights.SHA256 = sha256_of(folder / "stand-in.pt")
    words = ("fid", folder / "synth", "--against", folder / "real", "--cache-dir", cache)
    words = (*words, "--inception-weights", folder / "stand-in.pt", "--batch-size", 4)
    code, _, err = run(*words, "--device", "cpu")
    assert code == 0, err
    return compared


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "-m", "dpdm_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


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
    public = save(tmp_path / "m.safetensors", statement=non_private_statement(3))
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
    # Of both splits, and of the two parts of each that are compared.
    assert len(list((tmp_path / "four").rglob("*.npz"))) == 6


def test_fid_of_images_that_can_not_be_read_fails_in_all(tmp_path: Path) -> None:
    (tmp_path / "synth.npz").write_bytes(b"nothing")
    first, second = run_in(
        2, "fid", tmp_path / "synth.npz", "--against", "digits", "--extractor", "pixels"
    )
    assert first[0] == second[0] == 3
    assert first[2].startswith("error: process 0: ")
    assert second[2] == first[2]


@pytest.mark.parametrize(
    ("fault", "at", "words"),
    [
        ("killed", 0, "lost another"),
        ("killed", 1, "lost another"),
        ("memory", 1, "memory"),
        ("silent", 1, ""),
    ],
)
def test_fid_fails_in_all_when_one_does_and_keeps_nothing(
    fault: str, at: int, words: str, checkpoint: Path, tmp_path: Path
) -> None:
    draw(checkpoint, tmp_path / "synth", n=13)
    silence: dict[str, Any] = {"patience": 1.0, "environment": {"DPDM_TIMEOUT": "6"}}
    options = silence if fault == "silent" else {}
    found = launch(2, faulty_fid, fault, at, tmp_path, **options)
    code, out, err = found[1 - at]
    assert (code, out) == (ResourceError.exit_code, "")
    assert words in err.lower()
    if fault == "killed":
        assert isinstance(found[at], Exited)
        assert found[at].code == -signal.SIGKILL
    elif fault == "memory":
        assert found[at][0] != 0
    assert not list(tmp_path.rglob("*.npz"))


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_inception_features_of_two_processes_are_those_of_one(
    checkpoint: Path, tmp_path: Path
) -> None:
    torch.jit.script(StandIn()).save(str(tmp_path / "stand-in.pt"))
    draw(checkpoint, tmp_path / "synth", n=13)
    draw(checkpoint, tmp_path / "real", n=18, seed=1)
    (alone,) = launch(1, compared_by_inception, tmp_path, tmp_path / "one")
    first, second = launch(2, compared_by_inception, tmp_path, tmp_path / "two")
    assert second == []
    assert [count for count, *_ in first] == [count for count, *_ in alone] == [13, 18, 9, 9]
    for (_, mean, scatter), (_, other_mean, other_scatter) in zip(first, alone, strict=True):
        np.testing.assert_allclose(mean, other_mean, rtol=1e-9)
        np.testing.assert_allclose(scatter, other_scatter, rtol=1e-6, atol=1e-9 * scatter.max())


@pytest.mark.parametrize(
    "arguments",
    [
        ["calibrate", "--eps", 1],
        ["classify", "synth"],
        ["verify", "run"],
        ["release", "run", "out"],
        ["report", "run"],
        ["compare", "run"],
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
