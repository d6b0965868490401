from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from support.drawn import claimed, config_of
from typer.testing import CliRunner

from dpdm_cli.checkpoint import Model, save_model
from dpdm_cli.commands.console import reports_errors
from dpdm_cli.commands.sample import sample
from dpdm_cli.diffusion.denoiser import EDM, Denoiser
from dpdm_cli.diffusion.unet import UNet
from dpdm_cli.privacy.statement import non_private_statement
from dpdm_cli.sampling import drawing

app = typer.Typer()
app.command()(reports_errors(sample))


def save(path: Path, classes: tuple[str, ...] = ("a", "b", "c"), **changes: Any) -> Path:
    config = config_of(classes)
    facts: dict[str, Any] = {
        "dataset": "mnist",
        "statement": claimed(0.2),
        **changes,
    }
    denoiser = Denoiser(UNet(config), EDM())
    model = Model(
        denoiser=denoiser, config=config, parameterisation="edm", classes=classes, **facts
    )
    save_model(path, model)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model.safetensors")


def run(*arguments: object) -> tuple[int, str, str]:
    words = [*map(str, arguments), "--device", "cpu"]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def test_json_is_one_object_with_the_images_their_sampler_and_their_claim(
    checkpoint: Path, tmp_path: Path
) -> None:
    code, out, _ = run(
        checkpoint, "-n", 7, "-o", tmp_path / "out", "--steps", 2, "-B", 4, "--seed", 3, "--json"
    )
    assert code == 0
    values = json.loads(out)
    assert values["out"] == values["images"] == str(tmp_path / "out")
    assert [values[k] for k in ("n", "drawn_now", "format", "seed", "batch_size")] == [
        7,
        7,
        "png",
        3,
        4,
    ]
    assert (values["sampler"]["sampler"], values["sampler"]["steps"]) == ("heun", 2)
    assert (values["epsilon"], values["delta"], values["statement"]) == (
        0.2,
        1e-5,
        claimed(0.2).text,
    )
    assert values["headline"] == "epsilon 0.2, delta 1e-05, per image"
    assert Path(values["grid"]).is_file()
    assert Path(values["metadata"]).is_file()
    assert len(list((tmp_path / "out").glob("train/*/*.png"))) == 7


def test_the_table_names_the_images_the_claim_and_the_sampler(
    checkpoint: Path, tmp_path: Path
) -> None:
    code, out, err = run(
        checkpoint, "-n", 3, "-o", tmp_path / "out", "--sampler", "heun", "--steps", 2,
        "--churn", 1, "--s-min", 0.1, "--s-max", 40, "--guidance", 0.5,
    )  # fmt: skip
    assert code == 0
    assert "epsilon 0.2, delta 1e-05, per image" in out
    assert "heun, 2 steps, churn 1 between 0.1 and 40, guidance 0.5" in out
    assert "6 evaluations" in err


def test_quiet_prints_nothing(checkpoint: Path, tmp_path: Path) -> None:
    code, out, err = run(checkpoint, "-n", 3, "-o", tmp_path / "out", "--steps", 2, "-q")
    assert (code, out, err) == (0, "", "")


def test_a_model_without_privacy_is_announced_even_when_quiet(tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors", statement=non_private_statement(3))
    code, _, err = run(path, "-n", 3, "-o", tmp_path / "out", "--steps", 2, "-q")
    assert code == 0
    assert "NOT PRIVATE" in err
    _, out, _ = run(path, "-n", 3, "-o", tmp_path / "out", "--steps", 2)
    assert "NOT PRIVATE" in out


def test_labels_are_split_at_commas(checkpoint: Path, tmp_path: Path) -> None:
    code, _, _ = run(checkpoint, "-n", 4, "-o", tmp_path / "out", "--steps", 2, "--labels", "c, 0")
    assert code == 0
    assert {p.name for p in (tmp_path / "out" / "train").iterdir() if p.is_dir()} == {"a", "c"}


def test_a_purpose_names_the_row_it_took_for_lack_of_one(checkpoint: Path, tmp_path: Path) -> None:
    code, out, err = run(
        checkpoint, "-n", 2, "-B", 2, "-o", tmp_path / "out", "--for", "fid", "--steps", 2
    )
    assert code == 0
    assert "no row for mnist at epsilon 0.2" in " ".join(err.split())
    assert "best FID on mnist at epsilon 1" in " ".join(out.split())


def test_repeating_a_finished_command_says_it_is_complete(checkpoint: Path, tmp_path: Path) -> None:
    command = (checkpoint, "-n", 3, "-o", tmp_path / "out", "--steps", 2)
    run(*command)
    code, _, err = run(*command)
    assert code == 0
    assert "is complete" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_its_code_and_says_how_to_go_on(
    checkpoint: Path, tmp_path: Path, number: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (checkpoint, "-n", 9, "-B", 2, "-o", tmp_path / "out", "--steps", 2, "--json")
    generate = drawing.generate

    def stopped(*arguments: Any, **named: Any) -> torch.Tensor:
        os.kill(os.getpid(), number)
        return generate(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(drawing, "generate", stopped)
        found, out, err = run(*command)
    assert (found, out) == (code, "")
    assert "same command" in err
    code, out, _ = run(*command)
    assert (code, json.loads(out)["drawn_now"]) == (0, 7)


@pytest.mark.parametrize(
    "wrong",
    [
        ["-n", 0],
        [],
        ["-n", 3, "--sampler", "ddpm"],
        ["-n", 3, "--steps", 0],
        ["-n", 3, "--sampler", "ddim", "--churn", 5],
        ["-n", 3, "--guidance", "nan"],
        ["-n", 3, "--labels", "z"],
        ["-n", 3, "--batch-size", 0],
        ["-n", 3, "--format", "tar"],
        ["-n", 3, "--for", "speed"],
        ["-n", 3, "--device", "abacus"],
    ],
    ids=str,
)
def test_options_that_make_no_sense_end_with_the_code_for_usage(
    checkpoint: Path, tmp_path: Path, wrong: list[object]
) -> None:
    words = [*map(str, (checkpoint, "-o", tmp_path / "out", *wrong))]
    assert CliRunner().invoke(app, words).exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_ends_with_the_code_for_usage(
    checkpoint: Path, tmp_path: Path
) -> None:
    code, _, err = run(checkpoint, "-n", 3, "-o", checkpoint.parent)
    assert code == 2
    assert "not empty" in err


def test_a_missing_and_a_damaged_checkpoint_end_with_their_codes(tmp_path: Path) -> None:
    assert run(tmp_path / "absent", "-n", 3, "-o", tmp_path / "out")[0] == 3
    (tmp_path / "m.safetensors").write_bytes(b"no model")
    assert run(tmp_path / "m.safetensors", "-n", 3, "-o", tmp_path / "out")[0] == 4


def test_shares_and_marks_are_options(checkpoint: Path, tmp_path: Path) -> None:
    command = [checkpoint, "-n", 10, "-B", 5, "--steps", 1, "--no-mark", "--json"]
    code, out, _ = run(*command, "--proportions", "a=0.9,c=0.1", "-o", tmp_path / "out")
    assert code == 0
    values = json.loads(out)
    assert (values["marked"], values["proportions"]) == (False, {"a": 0.9, "c": 0.1})
    folders = (tmp_path / "out" / "train").iterdir()
    assert {path.name: len(list(path.iterdir())) for path in folders} == {"a": 9, "c": 1}
    code, _, err = run(*command, "--proportions", "0.9,0.1", "-o", tmp_path / "other")
    assert code == 2
    assert "2 proportions are given for 3 classes" in err
