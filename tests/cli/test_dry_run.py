"""`dpdm train --dry-run`, and what is said of the presets before a run: true of the run, or not said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.drawn import claimed
from support.trained import digits_folder
from typer.testing import CliRunner

from dpdm_cli.checkpoint import Model, save_model
from dpdm_cli.commands.app import app
from dpdm_cli.diffusion.denoiser import EDM, Denoiser
from dpdm_cli.diffusion.unet import UNet
from dpdm_cli.privacy.accounting.claims import claim, planned, round_up
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.plan_file import write_plan_file
from dpdm_cli.privacy.statement import AnyStatement, non_private_statement
from dpdm_cli.training import preset_remark
from dpdm_cli.training.config.network import blank_images, network_config
from dpdm_cli.training.config.request import IN_THE_PLAN
from dpdm_cli.training.config.run_spec import RunSpec
from dpdm_cli.training.config.settings import merge
from dpdm_cli.training.forecast import forecast as forecasting
from dpdm_cli.training.forecast.cost import Cost

PLAN = PrivacyPlan(
    dataset_size=1438,
    expected_batch_size=77.0,
    steps=7,
    sigma=2.5,
    delta=3e-5,
    clip_norm=0.7,
    noise_multiplicity=5,
    accountant="rdp",
)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    write_plan_file(path, planned(PLAN))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text("width = 8\nmultipliers = [1]\nembedding = 16\nsteps = 3\n")
    return path


@pytest.fixture(autouse=True)
def timed(monkeypatch: pytest.MonkeyPatch) -> list[RunSpec]:
    """Runs whose parts were timed; the answer is of no machine."""
    seen: list[RunSpec] = []

    def measure(spec: RunSpec, *_: object, **__: object) -> Cost:
        seen.append(spec)
        parts = {"warm_start": 30.0, "steps": 1000.0, "previews": 0.0, "grid": 20.0}
        return Cost(device="a device", **parts, thousand=90.0, memory=1_300_000_000, tuning=None)

    monkeypatch.setattr(forecasting, "measure", measure)
    return seen


def run(*words: object) -> tuple[int, str, str]:
    command = ["train", "digits", "--device", "cpu", *map(str, words)]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "300"})
    return result.exit_code, result.stdout, result.stderr


def rows_of(text: str) -> dict[str, str]:
    """Name and value of each row of the tables."""
    pairs = (line.strip().partition("  ") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def test_the_settings_of_a_plan_are_the_plans(plan: Path) -> None:
    code, text, _ = run("--dry-run", "--plan", plan, "--json")
    assert code == 0
    shown = json.loads(text)
    expected: dict[str, Any] = {
        "epsilon": round_up(claim(PLAN).epsilon, 4),
        "delta": 3e-5,
        "unit": "image",
        "clip_norm": 0.7,
        "noise_multiplicity": 5,
        "batch_size": 77,
        "epochs": None,
        "steps": 7,
        "accountant": "rdp",
        "warm_start": "none",
        "warm_share": None,
    }
    assert expected.keys() == set(IN_THE_PLAN)
    found = {name: entry for name, entry in shown["settings"].items() if name in expected}
    assert found == {n: {"value": v, "from": f"plan {plan}"} for n, v in expected.items()}
    assert shown["settings"]["learning_rate"]["from"].startswith("preset small")
    for name in ("delta", "clip_norm", "noise_multiplicity", "steps", "accountant", "warm_start"):
        assert shown["privacy"][name] == expected[name]


def test_people_read_the_claim_in_a_sentence_and_no_empty_row(plan: Path) -> None:
    code, text, _ = run("--dry-run", "--plan", plan)
    assert code == 0
    rows = rows_of(text)
    assert rows["clip_norm"] == "0.7"  # of the second table
    assert f"clip_norm            0.7   (plan {plan})" in text
    assert rows["claim"] == claim(PLAN).sentence
    assert "-differential privacy for one image" in rows["claim"]
    by = [f"{round_up(v, 4):.4f} by {name.upper()}" for name, v in claim(PLAN).epsilon_by.items()]
    assert rows["epsilon_by"] == ", ".join(by)
    assert "reason" not in rows
    assert "warm_sigma" not in rows
    assert "{" not in text


def save(path: Path, config: Path, statement: AnyStatement, dataset: str = "custom") -> Path:
    """A model of the network that `config` asks for."""
    settings, _ = merge("digits", preset="small", config=config)
    images = blank_images("digits", settings)
    shape = network_config(images, settings)
    model = Model(
        denoiser=Denoiser(UNet(shape), EDM()),
        config=shape,
        parameterisation="edm",
        classes=images.classes,
        dataset=dataset,
        statement=statement,
    )
    save_model(path, model)
    return path


def test_what_a_run_would_not_start_from_is_refused(tmp_path: Path, config: Path) -> None:
    private = save(tmp_path / "private.safetensors", config, claimed(1.0))
    public = save(tmp_path / "public.safetensors", config, non_private_statement(3))
    dry = ("--dry-run", "--config", config, "--json", "--init-from")
    code, _, said = run(*dry, private)
    assert code == 5
    assert "was trained on private images" in said
    itself = save(tmp_path / "itself.safetensors", config, non_private_statement(3), "digits")
    code, _, said = run(*dry, itself)
    assert code == 5
    assert "without privacy on digits" in said
    assert run(*dry, public)[0] == 0
    assert run("--dry-run", "--json", "--init-from", public)[0] == 2  # another network
    assert run(*dry, tmp_path / "absent.safetensors")[0] == 3


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was timed; the answer is of no machine."""
    seen: list[str] = []

    def seconds(data: str, *_: object) -> float:
        seen.append(data)
        return 1e-3

    monkeypatch.setattr(preset_remark, "_seconds_a_row", seconds)
    return seen


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--eps", "-1"], 2),
        (["--eps", "5000"], 5),
        (["--delta", "0.5"], 5),
        (["--delta", "nan"], 2),
        (["--batch-size", "5000"], 2),
        (["--accountant", "gdp"], 5),
        (["--config", "absent.toml"], 2),
        (["--config", "broken.toml"], 2),
        (["--plan", "absent.json"], 3),
        (["--non-private", "--batch-size", "5000"], 2),
    ],
    ids=str,
)
def test_nothing_is_estimated_for_settings_that_are_refused(
    words: list[str],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    measured: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.toml").write_text("steps = \n")
    found, _, said = run(*words, "--out", "run")
    assert found == code
    assert said.startswith("error:")
    assert not measured


def test_the_estimate_is_coarse_and_only_for_those_who_read_it(
    config: Path, tmp_path: Path, measured: list[str]
) -> None:
    code, _, said = run("--config", config, "--out", tmp_path / "run")
    assert code == 0
    first = said.splitlines()[0]
    assert "--preset paper takes the paper's network and schedule, about 4 hours here" in first
    assert measured == ["digits"]
    assert run("--config", config, "--out", tmp_path / "run", "--quiet")[0] == 2  # it is not empty
    assert measured == ["digits"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2.2, "2 seconds"),
        (44, "40 seconds"),
        (89, "90 seconds"),
        (100, "2 minutes"),
        (3_000, "50 minutes"),
        (8 * 3600, "8 hours"),
        (47 * 3600, "2 days"),
        (10 * 86400, "10 days"),
        (20 * 86400, "3 weeks"),
        (700 * 86400, "100 weeks"),
    ],
)
def test_durations_have_one_digit_and_a_unit(seconds: float, text: str) -> None:
    assert preset_remark._roughly(seconds) == text


@pytest.mark.forecast
def test_a_dry_run_forecasts_minutes_memory_and_images(timed: list[RunSpec]) -> None:
    code, text, _ = run("--dry-run")
    assert code == 0
    assert "takes about 18 min on a device (warm start 30 s, steps 17 min, its grid 20 s)" in text
    assert "1.5 min for each 1,000 images drawn from it; memory 1.3 GB; timed on grey rows" in text
    assert "by its figures this run is most like" in text
    rows = [
        line.split() for line in text.splitlines() if line.strip().startswith(("mnist", "this"))
    ]
    assert [row[-1] for row in rows if row[0] == "this"] == ["?"]
    assert len(rows) == 4
    code, text, _ = run("--dry-run", "--json")
    shown = json.loads(text)["forecast"]
    assert shown["cost"]["minutes"] == 17.5
    assert shown["outlook"]["expect"]
    assert len(timed) == 2


def test_nothing_is_timed_for_nobody(timed: list[RunSpec]) -> None:
    code, text, _ = run("--dry-run", "--json", "--quiet")
    assert code == 0
    assert json.loads(text)["forecast"]["cost"] is None
    assert not timed


def test_without_privacy_nothing_is_said_of_its_noise() -> None:
    code, text, _ = run("--dry-run", "--json", "--non-private")
    assert code == 0
    assert json.loads(text)["forecast"]["outlook"] is None


def test_what_was_found_is_shown_on_the_screen_and_nowhere_else(tmp_path: Path) -> None:
    folder = digits_folder(tmp_path / "images", 40)
    words = ["train", folder, "--preset", "small", "--public-metadata", "--delta", 1e-3, "-B", 8]
    out = tmp_path / "run"
    for more in (["--dry-run", "--json"], ["--steps", 2, "--out", out]):
        command = [*map(str, words), "--device", "cpu", *map(str, more)]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.stderr
        assert "found 40 images, 8x8, grey, 10 classes: 0 6, 1 5" in result.stderr
        assert "found 40" not in result.stdout
    assert all(b"found 40" not in f.read_bytes() for f in out.rglob("*") if f.is_file())


@pytest.mark.forecast
def test_a_run_begins_with_its_forecast_and_under_a_plan_says_what_is_from_where(
    plan: Path, config: Path, tmp_path: Path
) -> None:
    only = tmp_path / "network.toml"
    only.write_text(config.read_text().replace("steps = 3\n", ""))
    code, _, said = run("--plan", plan, "--config", only, "--out", tmp_path / "run")
    assert code == 0
    assert "forecast: takes about 18 min on a device" in said
    assert "forecast: expect noise: an image has" in said  # epsilon is 0.27
    assert f"from plan {plan}: epsilon" in said
    assert "from preset small: learning_rate" in said or "from preset small, digits:" in said
    assert f"from {only}: width 8" in said


def test_settings_for_another_set_leave_the_datas_public_figures_alone() -> None:
    command = ["train", "cifar10", "--preset", "paper", "--settings-for", "imagenet32", "--dry-run"]
    result = CliRunner().invoke(app, [*command, "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert shown["privacy"]["dataset_size"] == 50_000
    assert shown["privacy"]["public_inputs"]["dataset_size"] == "published"
    assert shown["network"]["classes"] == 10
    assert shown["settings"]["epochs"] == {"value": 100, "from": "preset paper, imagenet32"}
    assert shown["settings"]["dataset_size"]["value"] is None


def test_settings_for_an_unknown_set_end_with_the_code_for_usage() -> None:
    for words in (["--dry-run"], ["--out", "never"]):
        code, out, err = run("--preset", "paper", "--settings-for", "imagenet", *words)
        assert (code, out) == (2, "")
        assert "celeba64" in err
        assert "imagenet32" in err
