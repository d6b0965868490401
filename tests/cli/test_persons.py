"""`--unit person` by its commands: persons with several images in, a claim for one person out, everywhere the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.trained import interrupt_after
from typer.testing import CliRunner

from dpdm_cli.commands.app import app
from dpdm_cli.privacy.accounting.restating import person_epsilon
from dpdm_cli.privacy.plan import PrivacyPlan

pytestmark = pytest.mark.slow

PERSONS, IMAGES = 40, 80
TINY = [
    *("--preset", "small", "--eps", "8", "--delta", "1e-3", "--steps", "4", "--batch-size", "10"),
    *("--warm-start", "means", "--accountant", "rdp", "--device", "cpu", "-K", "2"),
]
PUBLIC = ["--public-metadata"]


def ran(*arguments: object) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})


def dpdm(*arguments: object) -> dict[str, Any]:
    """What a command prints as JSON."""
    result = ran(*arguments, "--json", "--quiet")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def write(path: Path, names: list[str]) -> Path:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (IMAGES, 8, 8), dtype=np.uint8)
    labels = np.arange(IMAGES) % 2
    np.savez(path, images=pixels, labels=labels, persons=np.array(names))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 images of 40 persons: 31 by the first of them, ten by the next, one by each of the others and the last two."""
    names = ["first"] * 31 + ["next"] * 11 + [f"person {i}" for i in range(38)]
    return write(tmp_path_factory.mktemp("persons") / "people.npz", names)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text("width = 8\nembedding = 8\nmultipliers = [1]\n")
    return path


@pytest.fixture(scope="module")
def runs(data: Path, config: Path) -> dict[str, Path]:
    """One by person and one by image."""
    made = {unit: data.parent / unit for unit in ("person", "image")}
    for unit, folder in made.items():
        dpdm("train", data, *TINY, *PUBLIC, "--config", config, "--unit", unit, "-o", folder)
    return made


def test_the_plan_counts_persons_and_the_claim_is_for_one(runs: dict[str, Path]) -> None:
    by = {
        unit: json.loads((folder / "statement.json").read_text()) for unit, folder in runs.items()
    }
    assert {unit: stated["plan"]["dataset_size"] for unit, stated in by.items()} == {
        "person": PERSONS,
        "image": IMAGES,
    }
    person = by["person"]
    assert person["unit"] == person["plan"]["unit"] == "one person"
    assert person["plan"]["sample_rate"] == 10 / PERSONS
    for words in (
        "adding or removing one person with all of their images among 40",
        "number of persons",
        "Poisson sampling of persons",
        "one gradient a person (mean over 2 noisy copies, each of one of their images at random)",
        "one vector of norm at most 1 a person (the mean of those of their images)",
        "whoever can count all other persons",
    ):
        assert words in person["text"], words
    assert not any("unit is one image" in line for line in person["not_covered"])
    assert "person" not in by["image"]["text"]


def test_verify_says_one_person_and_does_not_mix_units(runs: dict[str, Path]) -> None:
    page = ran("verify", runs["person"])
    assert page.exit_code == 0, page.output
    words = " ".join(page.output.split())
    assert "by adding or removing one person no outcome" in words
    assert "whether a given person was among" in words
    restated = dpdm("verify", runs["person"], "--adjacency", "replace-one")["restated"]
    assert restated[0]["question"].startswith("one person replaced by another")
    for arguments, said in (
        ([runs["person"], "--images-per-person", 2], "for one person already"),
        ([runs["person"], runs["image"]], "do not add up to a claim"),
    ):
        refused = ran("verify", *arguments)
        assert refused.exit_code == 2
        assert said in " ".join(refused.output.split())


def test_a_release_states_what_a_claim_is_worth_for_a_person_or_asks(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    def card_of(name: str, unit: str, *options: object) -> tuple[dict[str, Any], str]:
        told = dpdm("release", runs[unit], tmp_path / name, *options)
        card = (tmp_path / name / "README.md").read_text()
        assert told["people"] in card
        return told, card

    told, card = card_of("by person", "person")
    assert (told["unit"], told["epsilon"]) == ("one person", pytest.approx(8, abs=0.1))
    assert "per person**" in card
    assert "The claim is for one person, however many" in card

    told, card = card_of("asked", "image")
    assert "per image**" in card
    assert "How many images a person has at most was not said" in card
    assert "--images-per-person M" in card

    told, card = card_of("restated", "image", "--images-per-person", 3)
    plan = PrivacyPlan.from_dict(json.loads((runs["image"] / "statement.json").read_text())["plan"])
    epsilon = float(card.split("it is worth epsilon ")[1].split()[0])
    assert 0 <= epsilon - person_epsilon(plan, 3) <= 1e-4
    assert epsilon > 2 * told["epsilon"]
    assert "a person with up to 3 images" in card

    refused = ran("release", runs["person"], tmp_path / "no", "--images-per-person", 3)
    assert refused.exit_code == 2
    assert not (tmp_path / "no").exists()


def test_a_plan_for_persons_is_calibrated_and_followed(
    data: Path, config: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    figures = ["--eps", 8, "--delta", 1e-3, "--batch-size", 10, "--steps", 3]
    asked = ran("calibrate", *figures, "--unit", "person")
    assert asked.exit_code == 2
    assert "state the number of persons with --dataset-size" in " ".join(asked.output.split())
    of_persons = [*figures, "--unit", "person", "--dataset-size", PERSONS]
    page = ran("calibrate", *of_persons, "--out", plan)
    assert "persons N" in page.output
    assert "removing any one person with all of their images" in " ".join(page.output.split())
    told = dpdm("train", data, "--plan", plan, "--config", config, *PUBLIC, "-o", tmp_path / "run")
    assert "one person" in told["statement"]
    both = ran("train", data, "--plan", plan, "--unit", "person", "-o", tmp_path / "no")
    assert both.exit_code == 2
    # The unit is the plan's, whoever the images are known to be of.
    for unit, size in (("person", PERSONS), ("image", IMAGES)):
        other = tmp_path / f"{unit}.json"
        dpdm("calibrate", *figures, "--unit", unit, "--dataset-size", size, "--out", other)
        shown = dpdm("train", data, "--plan", other, *PUBLIC, "--dry-run")
        assert shown["settings"]["unit"] == {"value": unit, "from": f"plan {other}"}
        assert (shown["privacy"]["unit"], shown["privacy"]["dataset_size"]) == (f"one {unit}", size)


def test_what_a_dry_run_says_is_of_persons(data: Path) -> None:
    shown = dpdm("train", data, *TINY, *PUBLIC, "--unit", "person", "--dry-run")
    assert shown["settings"]["unit"] == {"value": "person", "from": "flag"}
    assert (shown["privacy"]["unit"], shown["privacy"]["dataset_size"]) == ("one person", PERSONS)
    assert "any one person with all of their images" in shown["privacy"]["claim"]
    unstated = ran("train", data, *TINY, "--unit", "person", "--dry-run")
    assert unstated.exit_code == 5
    assert "number of persons: 40" in unstated.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits"], "--unit person needs to know whose each image is"),
        (["digits", "--non-private"], "a run without privacy has no unit"),
    ],
)
def test_a_unit_that_cannot_be_is_refused(arguments: list[str], said: str, tmp_path: Path) -> None:
    refused = ran("train", *arguments, "--unit", "person", "-o", tmp_path / "run")
    assert refused.exit_code == 2
    assert said in refused.output


def test_a_run_goes_on_with_the_same_persons_alone(
    data: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved, out = tmp_path / "people.npz", tmp_path / "run"
    moved.write_bytes(data.read_bytes())
    command = ["train", moved, *TINY, *PUBLIC, "--config", config, "--unit", "person", "-o", out]
    command.append("--quiet")  # no forecast, whose steps are not the ones to interrupt
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert ran(*command).exit_code == 143
    write(moved, ["first"] * 30 + ["next"] * 12 + [f"person {i}" for i in range(38)])
    refused = ran(*command, "--resume")
    assert refused.exit_code == 5
    assert "not the ones this run was started with" in refused.output
    moved.write_bytes(data.read_bytes())
    assert dpdm(*command, "--resume")["epsilon"] <= 8


@pytest.mark.slow
def test_an_audit_of_a_run_by_person_removes_persons(runs: dict[str, Path]) -> None:
    checked = dpdm("audit", runs["person"], "--device", "cpu")
    assert checked["passed"]
    names = {check["name"] for check in checked["checks"]}
    for held in ("one-image", "two-image", "fifty-image"):
        assert f"sensitivity, {held} record" in names
    assert "warm start, sums, fifty-image record" in names
    refused = ran("audit", runs["person"], "--unit", "image")
    assert refused.exit_code == 2
