"""`dpdm train` on the command line: dry run, result, and the whole workflow behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from dpdm_cli.commands.app import app

pytestmark = pytest.mark.slow

SHORT = ["--steps", "4", "--batch-size", "32", "--device", "cpu", "--json", "--quiet"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text("width = 8\nmultipliers = [1]\nembedding = 16\npatch = 1\n")
    return path


def result_of(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    parsed: dict[str, object] = json.loads(result.stdout)
    return parsed


def test_a_dry_run_shows_settings_with_their_origin_and_the_claim_and_writes_nothing(
    tmp_path: Path, config: Path
) -> None:
    out = tmp_path / "run"
    shown = result_of(
        "train",
        "mnist",
        "--preset",
        "paper",
        "--eps",
        "1",
        "--config",
        str(config),
        "--dry-run",
        "--out",
        str(out),
        *SHORT,
    )
    settings = shown["settings"]
    assert isinstance(settings, dict)
    assert settings["epsilon"] == {"value": 1.0, "from": "flag"}
    assert settings["width"] == {"value": 8, "from": str(config)}
    assert settings["learning_rate"] == {"value": 3e-4, "from": "preset paper"}
    privacy = shown["privacy"]
    assert isinstance(privacy, dict)
    assert privacy["sample_rate"] == 32 / 60000
    assert 0.99 < privacy["epsilon"] <= 1
    assert not out.exists()


def test_the_paper_on_mnist_is_forecast_with_its_network_and_plan() -> None:
    shown = result_of(
        "train",
        "mnist",
        "--preset",
        "paper",
        "--eps",
        "10",
        "--dry-run",
        "--json",
        "--device",
        "cpu",
    )
    assert shown["network"]["parameters"] == 1_753_345  # type: ignore[index]
    privacy = shown["privacy"]
    assert isinstance(privacy, dict)
    assert (privacy["sample_rate"], privacy["steps"]) == (4096 / 60000, 4394)
    assert privacy["sigma"] == pytest.approx(2.3829, abs=3e-4)


def test_small_on_mnist_begins_with_moments_and_a_flag_changes_that() -> None:
    dry = ["train", "mnist", "--preset", "small", "--dry-run", "--json", "--device", "cpu"]
    privacy = result_of(*dry)["privacy"]
    none = result_of(*dry, "--warm-start", "none")["privacy"]
    assert isinstance(privacy, dict)
    assert isinstance(none, dict)
    assert privacy["warm_start"] == "moments"
    assert (none["warm_start"], none["warm_sigma"]) == ("none", None)
    assert none["sigma"] < privacy["sigma"]


def test_a_dry_run_without_privacy_refuses_a_batch_larger_than_the_data() -> None:
    words = ["train", "digits", "--non-private", "-B", "2000", "--dry-run", "--device", "cpu"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "more than the 1438 images" in result.stderr


def test_from_real_digits_to_scores_through_the_commands_alone(
    tmp_path: Path, config: Path
) -> None:
    run = str(tmp_path / "run")
    trained = result_of("train", "digits", "--config", str(config), "--out", run, *SHORT)
    assert trained["private"] is True
    assert trained["epsilon"] <= 10  # type: ignore[operator]
    sampled = result_of(
        "sample", run, "-n", "60", "--steps", "4", "--json", "--quiet", "--device", "cpu"
    )
    images = Path(str(sampled["out"]))
    assert len(list(images.glob("train/*/*.png"))) == 60
    metadata = json.loads((images / "metadata.json").read_text())
    assert trained["statement"] in json.dumps(metadata)
    Image.open(images / "grid.png").verify()
    scores = result_of(
        "classify", str(images), "--epochs", "2", "--json", "--quiet", "--device", "cpu"
    )
    assert all(0 <= scores[name] <= 100 for name in ("logreg", "mlp", "cnn"))  # type: ignore[operator]
    distance = result_of(
        "fid", str(images), "--against", "digits", "--extractor", "pixels", "--json", "--quiet"
    )
    assert distance["fid"]["train"] > 0  # type: ignore[index]


@pytest.mark.forecast
def test_without_a_terminal_progress_is_plain_lines_with_epsilon(
    tmp_path: Path, config: Path
) -> None:
    arguments = [
        "train",
        "digits",
        "--config",
        str(config),
        "--out",
        str(tmp_path / "run"),
        *SHORT[:-2],
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    last = [line for line in result.stderr.splitlines() if line.startswith("training:")][-1]
    assert "4/4 steps" in last
    assert "images/s" in last
    assert "epsilon <= " in last
    assert "--preset paper" in result.stderr


@pytest.mark.slow
def test_real_mnist_trains_privately_for_a_few_steps(tmp_path: Path, data_dir: Path) -> None:
    trained = result_of(
        "train",
        "mnist",
        "--data-dir",
        str(data_dir),
        "--out",
        str(tmp_path / "run"),
        "--steps",
        "2",
        "--json",
        "--quiet",
    )
    assert trained["private"] is True
    assert trained["epsilon"] <= 10  # type: ignore[operator]


@pytest.mark.parametrize("verbose", [True, False])
def test_how_the_step_is_computed_is_said_to_those_who_ask(
    tmp_path: Path, config: Path, verbose: bool
) -> None:
    arguments = ["train", "digits", "--config", str(config), "--steps", "1", "--device", "cpu"]
    more = ["--verbose"] if verbose else []
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run"), *more])
    assert result.exit_code == 0, result.output
    assert ("weight gradients of convolutions by" in result.stderr) is verbose
