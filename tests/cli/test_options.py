"""Options of all commands together: one letter one meaning, each default shown, other libraries' names understood."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from dpdm_cli.commands.app import app
from dpdm_cli.commands.options import ALIASES
from dpdm_cli.training.config.settings import FIELDS, TrainSettings

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OPTIONS = [
    (command, parameter)
    for command, found in COMMANDS.items()
    for parameter in found.params
    if parameter.param_type_name == "option"
]


def long_name(parameter: Any) -> str:
    return str(next(flag for flag in parameter.opts if flag.startswith("--")))


def test_a_letter_means_one_option_and_that_option_has_it_everywhere() -> None:
    letters: dict[str, set[str]] = {}
    for _, parameter in OPTIONS:
        for flag in parameter.opts:
            if not flag.startswith("--"):
                letters.setdefault(flag, set()).add(long_name(parameter))
    meanings = {letter: name for letter, (name,) in letters.items()}
    assert meanings == {
        "-n": "--count",
        "-e": "--epsilon",
        "-o": "--out",
        "-B": "--batch-size",
        "-C": "--clip-norm",
        "-K": "--noise-multiplicity",
        "-q": "--quiet",
    }
    letter_of = {name: letter for letter, name in meanings.items()}
    for command, parameter in OPTIONS:
        letter = letter_of.get(long_name(parameter))
        assert letter is None or letter in parameter.opts, (command, parameter.opts)


@pytest.mark.parametrize(
    ("command", "parameter"), OPTIONS, ids=lambda value: getattr(value, "name", value)
)
def test_each_option_says_what_it_is_and_what_it_is_when_left_out(
    command: str, parameter: Any
) -> None:
    assert parameter.help
    is_switch = parameter.is_flag and not parameter.secondary_opts
    said = isinstance(parameter.show_default, str) or (
        parameter.show_default and parameter.default is not None
    )
    assert parameter.required or is_switch or said


@pytest.mark.parametrize("command", COMMANDS)
def test_what_most_calls_are_about_comes_first(command: str) -> None:
    """Options without a panel are shown before the panels; so they are declared, and --out is one."""
    panels = [parameter.rich_help_panel for name, parameter in OPTIONS if name == command]
    essential = [panel is None for panel in panels]
    assert essential == sorted(essential, reverse=True)
    assert all(p.rich_help_panel is None for _, p in OPTIONS if long_name(p) == "--out")


def values_of(*words: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*words, "--json", "--quiet"])
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def test_names_of_opacus_are_understood_and_not_shown() -> None:
    names = dict(zip(ALIASES.values(), ALIASES, strict=True))
    ours = ["--epsilon", "2", "--delta", "1e-5", "--clip-norm=0.5", "--accountant", "rdp"]
    theirs = [names.get(w.split("=")[0], w.split("=")[0]) + w[len(w.split("=")[0]) :] for w in ours]
    assert "--max-grad-norm=0.5" in theirs
    assert values_of("calibrate", "mnist", *ours) == values_of("calibrate", "mnist", *theirs)
    text = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).stdout
    assert not [alias for alias in ALIASES if alias in text]
    assert CliRunner().invoke(app, ["verify", "x", "--max-grad-norm", "1"]).exit_code == 2


FLAGS = {
    "epsilon": 3.0,
    "delta": 2e-4,
    "dataset_size": 1000,
    "batch_size": 100,
    "steps": 9,
    "clip_norm": 0.5,
    "noise_multiplicity": 3,
    "accountant": "rdp",
    "warm_start": "means",
    "warm_share": 0.2,
    "init": "none",
    "image_size": 16,
    "denoiser": "v",
    "learning_rate": 1e-3,
    "ema": 0.9,
    "label_dropout": 0.2,
    "seed": 5,
    "precision": "float32",
    "micro_batch": 7,
}


def test_each_setting_given_by_a_flag_is_that_of_the_run() -> None:
    train = {parameter.name for command, parameter in OPTIONS if command == "train"}
    others = {
        "epochs",
        "unit",
    }  # in the place of steps; of images whose persons are known (`test_persons`)
    assert set(FLAGS) | others == train & set(FIELDS)
    words = [w for n, v in FLAGS.items() for w in (f"--{n.replace('_', '-')}", str(v))]
    shown = values_of("train", "digits", "--dry-run", "--device", "cpu", *words)["settings"]
    assert {n: shown[n] for n in FLAGS} == {
        n: {"value": v, "from": "flag"} for n, v in FLAGS.items()
    }
    default = dataclasses.asdict(TrainSettings())
    assert not [n for n, value in FLAGS.items() if value == default[n] and n != "init"]
