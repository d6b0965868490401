"""Where a run's settings come from, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dpdm_cli.data import ImageSet
from dpdm_cli.data.named import NAMED
from dpdm_cli.errors import UsageError
from dpdm_cli.training.config.network import blank_images, network_config, with_side
from dpdm_cli.training.config.request import request_run
from dpdm_cli.training.config.settings import (
    FIELDS,
    PRESETS,
    TrainSettings,
    merge,
    preset_settings,
    published_size,
    sets_in,
)


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
    settings = preset_settings("paper", data, 10.0, settings_for=data)
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


@pytest.mark.parametrize("data", ["a/folder", "imagenet.safetensors", "imagenet32", "mnist"])
def test_settings_for_a_set_are_taken_whatever_the_data_are_called(data: str) -> None:
    settings, origins = merge(data, preset="paper", settings_for="imagenet32", flags={"ema": 0.5})
    assert (settings.batch_size, settings.epochs, settings.delta) == (2048, 100, 7e-7)
    assert (settings.noise_multiplicity, settings.image_size, settings.ema) == (8, 32, 0.5)
    assert origins["epochs"] == "preset paper, imagenet32"
    assert origins["ema"] == "flag"


@pytest.mark.parametrize(("preset", "name"), [(p, n) for p in PRESETS for n in sets_in(p)])
def test_a_preset_says_how_to_train_never_how_many_images_there_are(preset: str, name: str) -> None:
    settings, origins = merge("a/folder", preset=preset, settings_for=name)
    assert settings.dataset_size is None
    assert origins["dataset_size"] == "default"


@pytest.mark.parametrize("name", ["imagenet32", "celeba64"])
def test_a_folder_that_is_called_like_a_set_is_not_that_set(name: str) -> None:
    assert name not in NAMED
    assert merge(name, preset="paper") == merge("a/folder", preset="paper")


def test_an_unknown_set_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(
        UsageError, match="the preset paper has no settings for 'imagenet'"
    ) as caught:
        merge("mnist", preset="paper", settings_for="imagenet")
    assert caught.value.hint == f"choose one of {', '.join(sets_in('paper'))}"
    assert {"celeba64", "imagenet32"} <= set(sets_in("paper"))
    with pytest.raises(UsageError, match="the preset small has no settings") as caught:
        merge("mnist", preset="small", settings_for="imagenet32")
    assert caught.value.hint == "add --preset paper"


def test_sizes_are_known_of_all_sets_that_the_paper_trains_on_and_of_no_others() -> None:
    sizes = {name: published_size(name) for name in sets_in("paper")}
    assert sizes["celeba64"] == sizes["celeba"] == 162_770
    assert sizes["imagenet32"] == 1_281_167
    assert all(sizes.values())
    assert published_size("a/folder") is None


@pytest.mark.parametrize("name", ["width", "blocks", "embedding", ""])
def test_a_network_that_no_command_would_read_is_refused_before_it_is_trained(name: str) -> None:
    settings, _ = merge("mnist", preset="small", flags={name: 1 << 20} if name else {})
    images = blank_images("mnist", settings)
    if not name:
        images = replace(images, images=images.images.new_zeros(1, 1, 2048, 2048))
    with pytest.raises(UsageError, match="no network is as large as this"):
        network_config(images, settings)


def blank(side: int, channels: int = 1) -> ImageSet:
    pixels = torch.zeros(1, channels, side, side, dtype=torch.uint8)
    return ImageSet(name="blank", images=pixels, labels=None, classes=())


def small(side: int, **flags: object) -> TrainSettings:
    request = request_run("folder", "small", **flags)  # type: ignore[arg-type]
    return with_side(request, blank(side)).settings


@pytest.mark.parametrize("side", [8, 28, 32, 64, 128])
def test_the_small_network_sees_no_more_than_16_patches_a_side(side: int) -> None:
    settings = small(side)
    assert side // settings.patch <= 16
    assert network_config(blank(side), settings).patch == settings.patch
    # A plan made without an image is that of the run: nothing in it depends on the size.
    changed = {n for n in FIELDS if getattr(settings, n) != getattr(small(28), n)}
    assert changed <= {"patch"}


def test_images_no_larger_than_mnists_have_the_network_that_was_measured() -> None:
    for side in (4, 28, 32):
        assert small(side) == preset_settings("small", "folder", 10.0)


def test_images_too_large_for_the_small_preset_are_refused_with_the_size_that_can() -> None:
    with pytest.raises(UsageError) as caught:
        small(256)
    assert "256 pixels a side" in caught.value.message
    assert "--image-size 128" in caught.value.hint
    assert small(128).patch == 8
    assert small(256, patch=16).patch == 16  # whoever says how


def test_a_patch_of_ones_own_stays(tmp_path: Path) -> None:
    assert small(64, config=toml(tmp_path, "patch = 2\n")).patch == 2
