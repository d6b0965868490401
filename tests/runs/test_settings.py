"""Where a run's settings come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpdm_cli.errors import UsageError
from dpdm_cli.runs.settings import FIELDS, PRESETS, merge, preset_settings


def toml(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def test_flags_override_the_file_which_overrides_the_preset(tmp_path: Path) -> None:
    config = toml(tmp_path, "learning_rate = 0.5\nema = 0.5\n")
    settings, origins = merge(
        "mnist", preset="paper", config=config, flags={"ema": 0.25, "delta": None}
    )
    assert (settings.ema, settings.learning_rate, settings.batch_size) == (0.25, 0.5, 4096)
    assert origins["ema"] == "flag"
    assert origins["learning_rate"] == str(config)
    assert origins["batch_size"] == "preset paper, mnist"
    assert origins["noise_multiplicity"] == "preset paper"
    assert origins["micro_batch"] == "default"


@pytest.mark.parametrize(
    ("data", "epsilon", "denoiser"),
    [
        ("mnist", 0.2, "v"),
        ("mnist", 0.3, "v"),
        ("mnist", 1.0, "edm"),
        ("fashion-mnist", 10.0, "edm"),
        ("celeba", 1.0, "edm"),
    ],
)
def test_the_paper_takes_v_prediction_at_small_budgets_and_edm_otherwise(
    data: str, epsilon: float, denoiser: str
) -> None:
    assert preset_settings("paper", data, epsilon).denoiser == denoiser


@pytest.mark.parametrize(
    ("data", "batch", "epochs", "copies", "delta"),
    [
        ("mnist", 4096, 300, 32, 1e-5),
        ("fashion-mnist", 4096, 300, 32, 1e-5),
        ("celeba", 2048, 300, 32, 1e-6),
        ("celeba64", 2048, 300, 8, 1e-6),
        ("cifar10", 2048, 500, 8, 1e-5),
        ("imagenet32", 2048, 100, 8, 7e-7),
    ],
)
def test_the_paper_preset_holds_the_papers_table(
    data: str, batch: int, epochs: int, copies: int, delta: float
) -> None:
    settings = preset_settings("paper", data, 10.0)
    assert (settings.batch_size, settings.epochs, settings.noise_multiplicity, settings.delta) == (
        batch,
        epochs,
        copies,
        delta,
    )
    assert (settings.clip_norm, settings.learning_rate, settings.ema, settings.label_dropout) == (
        1,
        3e-4,
        0.999,
        0.1,
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_steps_and_epochs_replace_each_other(preset: str) -> None:
    assert merge("mnist", preset=preset, flags={"steps": 7})[0].epochs is None
    assert merge("mnist", preset=preset, flags={"epochs": 7})[0].steps is None
    with pytest.raises(UsageError, match="both"):
        merge("mnist", preset=preset, flags={"steps": 7, "epochs": 7})


@pytest.mark.parametrize(
    "text",
    [
        "unheard_of = 1",
        "ema = 'much'",
        "ema = true",
        "multipliers = [1, 'x']",
        "batch_size = 2.5",
        "ema = 1.0",
        "width = 30",
        "denoiser = 'ddpm'",
        "learning_rate = nan",
        "learning_rate = -1.0",
        "precision = 'fp16'",
        "multipliers = []",
        "noise_multiplicity = 0",
    ],
)
def test_nonsense_in_a_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=text.split(" ")[0]):
        merge("mnist", preset="small", config=toml(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps = 'many'", "expected a whole number"),
        ("seed = 1.5", "expected a whole number"),
        ("ema = 'much'", "expected a number"),
        ("denoiser = 3", "expected a word"),
        ("multipliers = 2", "expected a list of whole numbers"),
        ("attention = ['x']", "expected a list of whole numbers"),
    ],
)
def test_what_is_expected_is_said_in_words(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        merge("mnist", preset="small", config=toml(tmp_path, text))
    assert caught.value.message.endswith(expected)


def test_what_is_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a TOML file"):
        merge("mnist", preset="small", config=toml(tmp_path, "ema == 1"))
    with pytest.raises(UsageError, match="cannot read"):
        merge("mnist", preset="small", config=tmp_path / "absent.toml")
    with pytest.raises(UsageError, match="unknown preset"):
        merge("mnist", preset="huge")


def test_every_setting_has_an_origin() -> None:
    assert set(merge("folder/of/mine", preset="small")[1]) == set(FIELDS)
