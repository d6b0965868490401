from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner

from dpdm_cli.commands.console import reports_errors
from dpdm_cli.commands.fid import fid
from dpdm_cli.evaluation.features import weights
from dpdm_cli.files import sha256_of

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")

app = typer.Typer()
app.command()(reports_errors(fid))


class Layers(torch.nn.Module):
    """2048 features of an image of 299 x 299, two of which are not constant."""

    def forward(self, x: Tensor) -> Tensor:
        spread = torch.stack([x.mean(dim=[1, 2, 3]), x.std(dim=[1, 2, 3])], dim=1)
        return torch.nn.functional.pad(spread, [0, 2046])


class StandIn(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        return self.layers(x)


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    file = tmp_path / "samples.npz"
    np.savez(file, images=np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8))
    return file


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def test_json_is_one_object_with_what_was_compared(samples: Path, tmp_path: Path) -> None:
    code, out, err = run(
        samples, "--against", "digits", "--extractor", "pixels", "--cache-dir", tmp_path, "--json"
    )
    assert code == 0
    values = json.loads(out)
    assert set(values["fid"]) == {"train", "test"}
    assert min(values["fid"].values()) > 0
    assert (values["n"], values["against"], values["extractor"]) == (20, "digits", "pixels")
    assert {split: each["n"] for split, each in values["reference"].items()} == {
        "train": 1438,
        "test": 359,
    }
    assert values["resize"].startswith("area")
    assert "below 10,000" in err


def test_the_table_shows_both_splits_with_their_sizes(samples: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        samples, "--against", "digits", "--extractor", "pixels", "--cache-dir", tmp_path
    )
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["train", "test"] in rows
    assert ["images", "1438", "359"] in rows
    assert "KID" not in out
    assert "precision" not in out


def test_scattering_with_the_further_measures_in_the_table_and_in_json(
    samples: Path, tmp_path: Path
) -> None:
    command = (samples, "--against", "digits", "--extractor", "scattering", "--kid")
    command = (*command, "--precision-recall", "--cache-dir", tmp_path)
    code, out, _ = run(*command, "--json")
    assert code == 0
    values = json.loads(out)
    assert values["extractor"] == "scattering"
    assert {each["subset_size"] for each in values["kid"].values()} == {10}
    assert {each["n"] for each in values["precision_recall"].values()} == {20}
    code, out, _ = run(*command)
    assert code == 0

    def row(name: str) -> list[str]:
        (line,) = (line for line in out.splitlines() if line.strip().startswith(f"{name}  "))
        return line.strip().removeprefix(name).split()

    for split, column in (("train", 0), ("test", 1)):
        kid, found = values["kid"][split], values["precision_recall"][split]
        assert row("kernel distance")[3 * column] == f"{kid['mean']:.3g}"
        for name in ("precision", "recall", "density", "coverage"):
            assert row(name)[column] == f"{found[name]:.3f}"
    assert row("over subsets") == ["100", "x", "10"] * 2
    assert row("images on each side") == ["20", "20"]


def test_several_processes_refuse_the_further_measures_with_one_message(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    command = (samples, "--against", "digits", "--extractor", "pixels", "--cache-dir", tmp_path)
    for number, messages in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", number)
        for option in ("--kid", "--precision-recall", "--by-class"):
            code, out, err = run(*command, option)
            assert (code, out) == (2, "")
            assert err.count("works in one process") == err.count("error: ") == messages


def test_quiet_prints_no_result(samples: Path, tmp_path: Path) -> None:
    code, out, err = run(
        samples, "--against", samples, "--extractor", "pixels", "--cache-dir", tmp_path, "-q"
    )
    assert (code, out) == (0, "")
    assert "warning" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "resize"),
    [((), "clean"), (("--resize", "legacy_tensorflow"), "legacy_tensorflow")],
)
def test_only_the_published_weights_are_used_and_named_by_their_digest_and_the_resizing(
    samples: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    resize: str,
) -> None:
    file = tmp_path / "stand-in.pt"
    torch.jit.script(StandIn()).save(str(file))
    command = (samples, "--against", samples, "--inception-weights", file)
    command = (*command, *options, "--cache-dir", tmp_path, "--json")
    code, out, err = run(*command)
    assert (code, out) == (4, "")
    assert "not the published weights of Inception" in err
    monkeypatch.setattr(weights, "SHA256", sha256_of(file))
    code, out, err = run(*command)
    assert code == 0, err
    values = json.loads(out)
    assert values["fid"] == {"all": pytest.approx(0.0, abs=1e-9)}
    assert (values["extractor"], values["resize"]) == ("inception", resize)
    assert values["extractor_sha256"] == sha256_of(file)


def test_without_weights_and_network_the_message_says_what_to_put_where(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_CLEAN_FID_PLACE", tmp_path / "nothing")
    code, out, err = run(
        samples, "--against", "digits", "--no-download", "--cache-dir", tmp_path, "--json"
    )
    assert (code, out) == (6, "")
    for needed in (
        weights.URL,
        str(tmp_path / weights.FILE_NAME),
        "--inception-weights",
        "--extractor scattering",
    ):
        assert needed in err


def test_images_that_are_not_there_end_with_the_code_for_data(tmp_path: Path) -> None:
    code, out, err = run(
        tmp_path / "absent", "--against", "digits", "--extractor", "pixels", "--cache-dir", tmp_path
    )
    assert (code, out) == (3, "")
    assert "absent" in err


def test_an_unknown_resize_mode_ends_with_the_code_for_usage(samples: Path) -> None:
    assert run(samples, "--against", "digits", "--resize", "legacy_pytorch")[0] == 2
