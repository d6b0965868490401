"""`dpdm audit` on the command line, and the brief audit before every training run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny
from support.mutants import MUTANTS
from torch import Tensor
from typer.testing import CliRunner

from dpdm_cli import train
from dpdm_cli.auditing import run as auditing
from dpdm_cli.commands.app import app
from dpdm_cli.diffusion.unet import UNetConfig
from dpdm_cli.errors import PrivacyError
from dpdm_cli.privacy import step
from dpdm_cli.privacy.accounting.claims import planned
from dpdm_cli.privacy.gradients import layer_rules
from dpdm_cli.privacy.plan_file import write_plan_file
from dpdm_cli.training.config.settings import preset_settings
from dpdm_cli.training.trainer import Trainer

pytestmark = pytest.mark.slow

SMALL = ["audit", "--dataset", "digits", "--device", "cpu"]
STATISTICAL = [*SMALL, "--no-checks", "--statistical", "--canaries", "400", "--steps", "3"]
TINY = {"width": 8, "embedding": 8, "batch_size": 32, "steps": 3, "device": "cpu"}


def test_the_checks_pass_and_are_shown() -> None:
    page = CliRunner().invoke(app, SMALL, env={"COLUMNS": "160"})
    assert page.exit_code == 0, page.output
    assert "FAIL" not in page.output
    assert "Replayed: 128 probe records" in page.output  # the batch of a run
    for check in (
        "sensitivity, huge record",
        "sensitivity, each tensor",
        "noise, each tensor",
        "sampler, rate",
        "ledger",
    ):
        assert check in page.output


def test_canaries_pass_and_are_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "audit.png"
    done = CliRunner().invoke(app, [*STATISTICAL, "--json", "--quiet", "--out", str(picture)])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["passed"] is True
    pool = result["statistical"]["lower_bounds_at_95_percent"][0]
    assert 0 < pool["gaussian_mean"] < 1.2 * result["statistical"]["claimed"]
    assert picture.read_bytes()[:4] == b"\x89PNG"
    again = CliRunner().invoke(app, [*STATISTICAL, "--out", str(picture)])
    assert again.exit_code == 2
    assert "exists already" in again.output


@pytest.mark.parametrize(
    ("mutant", "arguments"),
    [
        ("noise x 0.9", SMALL),
        ("a tensor left out of the norm", SMALL),
        ("no noise", STATISTICAL),
        ("copies clipped one by one", STATISTICAL),
        ("no clip", STATISTICAL),
    ],
)
def test_a_failed_audit_ends_with_5(
    mutant: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MUTANTS[mutant].break_it(monkeypatch)
    picture = [] if arguments is SMALL else ["--out", str(tmp_path / "audit.png")]
    done = CliRunner().invoke(app, [*arguments, *picture], env={"COLUMNS": "160"})
    assert done.exit_code == 5, done.output
    assert "FAIL" in done.output
    assert "do not publish" in done.output


def test_a_trained_run_is_audited_under_its_own_plan(tmp_path: Path) -> None:
    train("digits", tmp_path / "run", **TINY)
    how = ["--precision", "bf16", "--micro-batch", "12"]
    done = CliRunner().invoke(app, ["audit", str(tmp_path / "run"), *how, "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["plan"]["expected_batch_size"] == 32
    assert (result["records"], result["micro_batch"], result["precision"]) == (32, 12, "bf16")


@pytest.mark.parametrize("arguments", [SMALL, STATISTICAL])
def test_the_step_is_audited_in_the_precision_asked_for(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a clip that fails after a layer has run in bfloat16."""
    real, clip, dtypes = layer_rules.F.conv2d, step.clipped_sum, set()

    def conv2d(x: Tensor, *rest: Any) -> Tensor:
        dtypes.add(x.dtype)
        return real(x, *rest)

    def clipped_sum(rows: Tensor, norm: float) -> Tensor:
        return rows.nan_to_num().sum(0) if torch.bfloat16 in dtypes else clip(rows, norm)

    monkeypatch.setattr(layer_rules.F, "conv2d", conv2d)
    monkeypatch.setattr(step, "clipped_sum", clipped_sum)
    for precision, exit_code in (("float32", 0), ("bf16", 5)):
        out = ["--out", str(tmp_path / f"{precision}.png")]
        done = CliRunner().invoke(app, [*arguments, *out, "--precision", precision])
        assert done.exit_code == exit_code, done.output


def test_tensors_with_too_few_canaries_are_named(tmp_path: Path) -> None:
    few = ["--canaries", "60", "--steps", "2", "--out", str(tmp_path / "few.png")]
    page = CliRunner().invoke(app, [*SMALL, "--no-checks", "--statistical", *few])
    assert page.exit_code == 0, page.output
    assert "71 of the network's tensors have too few canaries" in " ".join(page.output.split())
    enough = ["--steps", "2", "--out", str(tmp_path / "enough.png"), "--json", "--quiet"]
    done = CliRunner().invoke(app, [*SMALL, "--no-checks", "--statistical", *enough])
    assert done.exit_code == 0, done.output
    statistical = json.loads(done.stdout)["statistical"]
    assert statistical["canaries"] > 10 * 70
    # Some are too small, and now and then all coins of a tensor fall on one side.
    assert "head.bias" in statistical["tensors_not_judged"]
    assert len(statistical["tensors_not_judged"]) < 8


@pytest.mark.parametrize(
    "mutant",
    [
        "noise x 0.97",
        "no clip",
        "a tensor left out of the norm",
        "q x 1.5",
        "no line in the ledger",
    ],
)
@pytest.mark.check
def test_no_image_is_touched_by_a_step_that_fails_the_audit(
    mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    monkeypatch.setattr(Trainer, "step", steps.append)
    MUTANTS[mutant].break_it(monkeypatch)
    with pytest.raises(PrivacyError, match="does not keep its privacy plan"):
        train("digits", tmp_path / "run", **TINY)
    assert not steps
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-checks"],
        ["--statistical", "--canaries", "3"],
        ["--dataset", "nothing"],
        ["--eps", "-1"],
        ["--device", "nowhere"],
        ["--device", "cpu", "--precision", "tf32"],
        ["--precision", "float8"],
        ["--micro-batch", "-1"],
    ],
)
def test_nonsense_is_refused(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, ["audit", *arguments])
    assert done.exit_code == 2, done.output


def test_the_network_of_another_sets_settings_is_audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the plan of its set's N: settings whose delta is too large for that are refused."""
    words = ["audit", "--dataset", "mnist", "--settings-for", "digits", "--device", "cpu"]
    refused = CliRunner().invoke(app, words, env={"COLUMNS": "160"})
    assert refused.exit_code == 5
    assert "delta is 0.0001, but must be below 1/N" in refused.output

    class SeenError(Exception):
        """Enough was seen."""

    def seen(config: UNetConfig) -> None:
        raise SeenError(config)

    monkeypatch.setattr(auditing, "UNet", seen)
    plan = tiny.plan()
    write_plan_file(tmp_path / "plan.json", planned(plan))
    shown = CliRunner().invoke(app, [*words, "--plan", str(tmp_path / "plan.json")])
    assert isinstance(shown.exception, SeenError), shown.output
    (shape,) = shown.exception.args
    settings = preset_settings("small", "digits", 10.0)
    assert (shape.image_size, shape.multipliers) == (28, settings.multipliers)
    assert (shape.patch, shape.embedding) == (settings.patch, settings.embedding)
    assert settings.patch != preset_settings("small", "mnist", 10.0).patch

    unknown = CliRunner().invoke(app, ["audit", "--settings-for", "svhn"], env={"COLUMNS": "160"})
    assert unknown.exit_code == 2
    assert "no settings for 'svhn'" in unknown.output
