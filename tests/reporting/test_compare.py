"""Several runs beside each other: what each claims, what they claim together, and where figures of real images go."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.drawn import PLAN, draw, save
from typer.testing import CliRunner

from dpdm_cli import compare, verify
from dpdm_cli.commands.app import app
from dpdm_cli.errors import PrivacyError, UsageError
from dpdm_cli.privacy.accounting.attack_risk import plan_risk
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.public_inputs import PublicInputs
from dpdm_cli.privacy.statement import private_statement

STATED = PublicInputs(
    **dict.fromkeys(("dataset_size", "classes", "image_size", "channels"), "stated")
)
SIGMAS = {"loud": 4.0, "quiet": 1.0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models with samples of each, of which one has the noisier plan; and real images."""
    home = tmp_path_factory.mktemp("compare")
    for name, sigma in SIGMAS.items():
        ledger = Ledger(replace(PLAN, sigma=sigma))
        for _ in range(PLAN.releases):
            ledger.record()
        (home / name).mkdir()
        save(home / name / "model.safetensors", statement=private_statement(ledger, STATED))
        draw(home / name / "model.safetensors", home / name / "synth", n=30, steps=1)
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("cat", "dog", "eel"):
            for index in range(4):
                file = home / "real" / split / label / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 256, (4, 4), dtype=np.uint8)).save(file)
    return home


def models(home: Path) -> list[Path]:
    return [home / name / "model.safetensors" for name in SIGMAS]


def test_each_run_has_its_own_figures_and_all_together_those_of_verify(home: Path) -> None:
    found = compare(models(home))
    for run, sigma in zip(found.runs, SIGMAS.values(), strict=True):
        assert run.risk == plan_risk(replace(PLAN, sigma=sigma))
        assert run.statement.plan.sigma == sigma
    assert found.together == verify(models(home)).together
    assert found.together is not None
    assert found.risk is not None
    assert found.together.epsilon > max(run.statement.epsilon for run in found.runs)
    assert found.risk.guess > max(run.risk.guess for run in found.runs)


def test_a_run_and_its_samples_count_once(home: Path) -> None:
    model = home / "quiet" / "model.safetensors"
    found = compare([model, home / "quiet" / "synth"])
    assert found.risk == found.runs[0].risk
    assert len(found.relations) == 1
    alone = compare([model])
    assert (alone.together, alone.risk, alone.relations) == (None, None, ())


def test_scores_are_those_of_the_samples_beside_each_model(home: Path, tmp_path: Path) -> None:
    picture = tmp_path / "private" / "runs.png"
    options: dict[str, Any] = {"extractor": "pixels", "epochs": 1}
    found = compare(models(home), against=str(home / "real"), plot=picture, **options)
    for run in found.runs:
        assert run.scores is not None
        assert run.scores.samples == run.path.parent / "synth"
        assert run.scores.n == 30
        assert 0 <= run.scores.accuracy <= 100
        # As many of each class: both means are the same.
        assert run.scores.balanced == pytest.approx(run.scores.accuracy)
    assert stat.S_IMODE(picture.stat().st_mode) == 0o600
    Image.open(picture).verify()
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_picture_is_written_by_its_name(suffix: str, home: Path, tmp_path: Path) -> None:
    file = tmp_path / f"runs{suffix}"
    compare(models(home), plot=file)
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert file.read_bytes().startswith(start)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (PrivacyError, {"plot": "runs.png", "against": "digits"}),
        (UsageError, {"plot": "runs.html"}),
        (UsageError, {"runs": []}),
    ],
)
def test_what_makes_no_sense_is_refused(
    kind: type[Exception], options: dict[str, Any], home: Path, tmp_path: Path
) -> None:
    if "plot" in options:
        options = {**options, "plot": tmp_path / options["plot"]}
    with pytest.raises(kind):
        compare(options.pop("runs", models(home)), **options)
    assert not list(tmp_path.iterdir())


def test_scores_without_samples_are_refused_with_the_command_that_draws_them(
    home: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(models(home)[0].read_bytes())
    with pytest.raises(UsageError) as caught:
        compare([model], against=str(home / "real"))
    assert f"dpdm sample {model}" in caught.value.hint


def test_people_see_a_row_for_each_run_and_the_claim_of_all(home: Path) -> None:
    result = CliRunner().invoke(app, ["compare", *map(str, models(home))], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    for name in SIGMAS:
        assert f"{name}/model.safetensors" in result.stdout
    found = compare(models(home))
    assert found.risk is not None
    words = " ".join(result.stdout.split())
    assert "All of them published, if trained on the same images: epsilon" in words
    assert f"{100 * found.risk.guess:.2f} % of the time" in words
