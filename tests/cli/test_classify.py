from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from dpdm_cli.commands.classify import classify
from dpdm_cli.commands.console import reports_errors
from dpdm_cli.data import load_images

app = typer.Typer()
app.command()(reports_errors(classify))


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    real = load_images("digits", split="train")
    assert real.labels is not None
    folder = tmp_path / "run" / "samples"
    for i in range(100):
        place = folder / str(int(real.labels[i])) / f"{i:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(real.images[i, 0].numpy()).save(place)
    (folder / "metadata.json").write_text(json.dumps({"dataset": "digits"}))
    return folder


def test_json_is_one_object_with_the_three_accuracies(samples: Path) -> None:
    code, out, err = run(samples, "--epochs", 1, "--json")
    assert code == 0
    values = json.loads(out)
    assert all(0 <= values[name] <= 100 for name in ("logreg", "mlp", "cnn"))
    assert (values["n"], values["test"], values["test_n"]) == (100, "digits", 359)
    assert values["baseline"] is None
    assert "not covered" in err


def test_the_picture_goes_to_private_files_beside_the_samples(samples: Path) -> None:
    assert run(samples, "--epochs", 1, "--model", "logreg", "-q")[0] == 0
    assert Image.open(samples.parent / "private" / "confusion.png").format == "PNG"
    # Read again: the picture is no image of the samples.
    assert len(load_images(samples).images) == 100


def test_the_picture_stays_out_of_a_folder_whose_samples_are_one_file(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "samples"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    classes = np.array([str(digit) for digit in range(10)])
    np.savez(folder / "samples.npz", images=images, labels=np.arange(40) % 10, classes=classes)
    (folder / "metadata.json").write_text(json.dumps({"dataset": "digits"}))
    code, _, err = run(folder / "samples.npz", "--epochs", 1, "--model", "logreg", "-q")
    assert code == 0, err
    assert (tmp_path / "run" / "private" / "confusion.png").is_file()
    assert not (folder / "private").exists()


def test_the_table_shows_samples_and_real_images_side_by_side(samples: Path) -> None:
    options = ("--epochs", 1, "--model", "mlp", "--baseline", "real", "--out", samples.parent)
    code, out, _ = run(samples, *options)
    assert code == 0
    rows = [line.strip() for line in out.splitlines()]
    assert any(row.startswith("100 synthetic images") for row in rows)
    assert any(row.startswith("1438 real images, NOT PRIVATE") for row in rows)
    assert (samples.parent / "confusion.png").is_file()


def test_the_private_baseline_shows_its_epsilon_rounded_up(tmp_path: Path) -> None:
    options = ("--baseline", "dp-sgd", "--eps", 8, "--model", "logreg", "--out", tmp_path)
    code, out, _ = run("--test", "digits", *options)
    assert code == 0
    row = next(line for line in out.splitlines() if "real images" in line)
    assert "epsilon 8.0 and delta 1e-05 for each classifier" in row


def test_the_classifier_of_scattering_features_has_a_column_of_its_own(samples: Path) -> None:
    options = ("--baseline", "scattering", "--eps", 8, "--model", "mlp", "--epochs", 1)
    code, out, err = run(samples, *options, "--out", samples.parent)
    assert code == 0, err
    head, synthetic, real = (
        [cell.strip() for cell in line.split("  ") if cell.strip()]
        for line in out.splitlines()
        if line.lstrip().startswith(("trained on", "100 synthetic", "1438 real"))
    )
    assert head == ["trained on", "MLP", "linear classifier"]
    assert len(synthetic) == len(real) == 2
    assert real[0] == "1438 real images, scattering, epsilon 8.0 and delta 1e-05"
    line = next(line for line in out.splitlines() if "1438 real" in line)
    assert line.rstrip().endswith(real[1])
    assert float(real[1]) >= 80.0
    assert "250 steps" in err


def test_without_samples_and_baseline_the_code_is_that_for_usage() -> None:
    code, out, err = run("--test", "digits")
    assert (code, out) == (2, "")
    assert "--baseline real" in err


def test_samples_without_labels_end_with_the_code_for_data(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    np.savez(file, images=np.zeros((20, 8, 8), np.uint8))
    assert run(file, "--test", "digits", "--epochs", 1)[0] == 3


def test_a_delta_that_is_no_guarantee_ends_with_the_code_for_privacy() -> None:
    options = ("--baseline", "dp-sgd", "--eps", 1, "--delta", 0.01, "--model", "logreg")
    code, out, err = run("--test", "digits", *options)
    assert (code, out) == (5, "")
    assert "delta" in err
