"""A run is resolved once: what is shown before it, what is audited and what is run are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import trained
from support.trained import digits_folder

from dpdm_cli import calibrate, dry_run
from dpdm_cli.auditing import run as auditing
from dpdm_cli.privacy.accounting.claims import planned
from dpdm_cli.privacy.plan_file import write_plan_file
from dpdm_cli.training import run as training
from dpdm_cli.training.config.request import IN_THE_PLAN as IN_A_PLAN
from dpdm_cli.training.config.run_spec import RunSpec
from dpdm_cli.training.setup import set_up

SMALL = {name: trained.TINY[name] for name in ("width", "multipliers", "embedding", "device")}
IN_THE_PLAN = {"accountant": "rdp", "delta": 1e-4, "steps": 6, "batch_size": 32}


class SeenError(Exception):
    """Enough was seen."""


def spec_of_training(monkeypatch: pytest.MonkeyPatch, out: Path, **asked: Any) -> RunSpec:
    def seen(*args: Any, **named: Any) -> None:
        raise SeenError(set_up(*args, **named).spec)

    with monkeypatch.context() as patch:
        patch.setattr(training, "set_up", seen)
        with pytest.raises(SeenError) as caught:
            training.train("digits", out, preset="small", **asked)
    (spec,) = caught.value.args
    assert isinstance(spec, RunSpec)
    return spec


def told(spec: RunSpec) -> dict[str, Any]:
    """All but what a dry run says beside it."""
    return {
        **RunSpec.to_dict(spec),
        "start": spec.start and spec.start.sha256,
        "steps": spec.steps,
        "q": spec.sample_rate,
    }


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"private": False},
        {"warm_start": "none"},
        {"dataset_size": 1000, "noise_multiplicity": 3},
        {"image_size": 12, "width": 32, "multipliers": (1, 1), "embedding": 64, "patch": 2}
        | {"attention": ()},  # where there is a procedural start
    ],
    ids=str,
)
def test_a_dry_run_shows_the_run(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {**SMALL, **IN_THE_PLAN, **asked}
    shown = dry_run("digits", preset="small", **asked)
    assert told(spec_of_training(monkeypatch, tmp_path / "run", **asked)) == told(shown)
    assert (shown.start is not None) is ("attention" in asked)


def test_a_plan_in_a_file_is_that_of_the_run_of_its_dry_run_and_of_its_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dry_run("digits", preset="small", noise_multiplicity=5, **SMALL, **IN_THE_PLAN).plan
    assert made is not None
    file = tmp_path / "plan.json"
    write_plan_file(file, planned(made))
    shown = dry_run("digits", preset="small", plan=str(file), **SMALL)
    spec = spec_of_training(monkeypatch, tmp_path / "run", plan=file, **SMALL)
    audited = auditing._spec("small", None, "digits", 10.0, file, made)
    assert made == shown.plan == spec.plan == audited.plan
    assert told(shown) == told(spec)
    assert shown.settings.noise_multiplicity == audited.settings.noise_multiplicity == 5


def test_without_a_checkpoint_the_run_of_the_preset_is_audited() -> None:
    audited = auditing._spec("small", None, "mnist", 3.0, None, None)
    assert told(audited) == told(dry_run("mnist", preset="small", epsilon=3.0))


@pytest.mark.parametrize("epsilon", [0.2, 1.0])
def test_under_a_plan_the_preset_is_tuned_for_the_plans_budget(
    epsilon: float, tmp_path: Path
) -> None:
    asked = dry_run("mnist", preset="paper", epsilon=epsilon)
    assert asked.plan is not None
    file = tmp_path / "plan.json"
    write_plan_file(file, planned(asked.plan, epsilon))
    under = dry_run("mnist", preset="paper", plan=file)
    assert under.settings.denoiser == asked.settings.denoiser == ("v" if epsilon < 1 else "edm")
    by_origin = under.by_origin()
    assert set(by_origin[f"plan {file}"]) <= set(IN_A_PLAN)
    assert by_origin[f"plan {file}"]["steps"] == asked.plan.steps
    assert by_origin["preset paper"]["learning_rate"] == asked.settings.learning_rate
    assert "learning_rate" not in by_origin[f"plan {file}"]


@pytest.mark.parametrize(
    ("data", "given"),
    [
        ("digits", {}),
        ("digits", {"epsilon": 2.0, "warm_share": 0.5}),
        ("mnist", {"epsilon": 1.0, "warm_start": "none"}),
        ("cifar10", {"delta": 1e-6}),
    ],
    ids=str,
)
def test_a_plan_calibrated_for_a_preset_is_that_of_its_run(
    data: str, given: dict[str, Any], tmp_path: Path
) -> None:
    run = dry_run(data, preset="small", **given)
    found = calibrate(data, preset="small", out=tmp_path / "plan.json", **given)
    assert found.plan == run.plan
    assert dry_run(data, preset="small", plan=tmp_path / "plan.json").plan == run.plan


def test_a_plan_for_images_of_ones_own_is_that_of_their_run(tmp_path: Path) -> None:
    folder = digits_folder(tmp_path / "images", 40)
    said: dict[str, Any] = {"dataset_size": 5000, "delta": 1e-5}
    run = dry_run(str(folder), preset="small", public_metadata=True, **said)
    assert calibrate(str(folder), preset="small", **said).plan == run.plan
