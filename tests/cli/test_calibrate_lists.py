"""`dpdm calibrate` of several epsilons at once: a row each, and their picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from dpdm_cli.commands.app import app

OWN = ["--dataset-size", "5000", "--batch-size", "100", "--delta", "1e-5"]


def dpdm(*options: str) -> Result:
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, ["calibrate", *options])


def values_of(*options: str) -> dict[str, Any]:
    result = dpdm(*options, "--json")
    assert result.exit_code == 0, result.stderr
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def test_several_epsilons_have_a_row_each_and_the_plans_of_one(tmp_path: Path) -> None:
    plot = tmp_path / "plans.png"
    options = [*OWN, "--steps", "100", "--warm-start", "means"]
    several = values_of("--eps", "0.5,2", *options, "--plot", str(plot))["plans"]
    for epsilon, found in zip(("0.5", "2"), several, strict=True):
        alone = values_of("--eps", epsilon, *options)
        assert {name: found[name] for name in alone} == alone
    low, high = several
    assert (
        low["risk"]["attack"]["guess_at_even_odds"] < high["risk"]["attack"]["guess_at_even_odds"]
    )
    for found in several:
        assert list(found["risk"]["budget"].values()) == pytest.approx([0.1, 0.9], abs=1e-3)
    assert plot.read_bytes().startswith(b"\x89PNG")
    shown = dpdm("--eps", "0.5,2", *options).stdout
    assert all(f"{found['sigma']:.7g}" in shown for found in several)


@pytest.mark.parametrize(
    "options",
    [
        ["--eps", "1,x"],
        ["--eps", ""],
        ["--eps", "1,,2"],
        ["--eps", "1,2", "--out", "plan.json"],
        ["--eps", "1,2", "--sigma", "3"],
        ["--eps", "1", "--plot", "plan.txt"],
    ],
)
def test_lists_of_epsilons_that_make_no_sense_are_refused(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = dpdm(*options, *OWN, "--steps", "10")
    assert result.exit_code == 2
    assert "error:" in result.stderr
    assert not list(tmp_path.iterdir())
