"""`dpdm calibrate` as a user meets it: options, output, files and exit codes."""

from __future__ import annotations

import inspect
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import dpdm_cli as api
from dpdm_cli.commands.calibrate import calibrate
from dpdm_cli.commands.console import reports_errors
from dpdm_cli.errors import PrivacyError, UsageError
from dpdm_cli.privacy.accounting import accountants
from dpdm_cli.privacy.accounting import claims as accounting
from dpdm_cli.privacy.accounting.claims import Claim, check_plan_file, claim
from dpdm_cli.privacy.plan import steps_for_epochs
from dpdm_cli.privacy.plan_file import read_plan_file

NAMES = {
    "accountant",
    "adjacency",
    "claimed_by",
    "clip_norm",
    "dataset_size",
    "delta",
    "epsilon",
    "epsilon_by",
    "expected_batch_size",
    "noise_multiplicity",
    "reason",
    "risk",
    "sample_rate",
    "sigma",
    "slack",
    "steps",
    "target_epsilon",
    "unit",
    "warm_sigma",
    "warm_start",
}
OWN = ["--dataset-size", "5000", "--batch-size", "100", "--delta", "1e-5"]


def dpdm(*options: str) -> Any:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(reports_errors(calibrate))
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, options)


def values_of(*options: str) -> dict[str, Any]:
    result = dpdm(*options, "--json")
    assert result.exit_code == 0, result.stderr
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def test_the_bare_command_is_mnists_plan() -> None:
    values = values_of("--eps", "10", "--delta", "1e-5")
    assert values.keys() == NAMES
    assert values["dataset_size"] == 60_000
    assert values["expected_batch_size"] == 4096
    assert values["steps"] == 4394
    assert values["sample_rate"] == 4096 / 60_000
    assert values["clip_norm"] == 1
    assert values["noise_multiplicity"] == 32
    assert values["accountant"] == values["claimed_by"] == "prv"
    assert values["epsilon_by"].keys() == {"prv", "rdp", "pld"}
    assert 9.95 <= values["epsilon"] <= values["target_epsilon"] == 10
    assert values["slack"] == pytest.approx(10 - values["epsilon"])
    assert (values["adjacency"], values["unit"]) == ("add-or-remove-one", "one image")
    assert 2.35 < values["sigma"] < 2.40


def test_people_see_the_plan_in_full_precision_and_the_claim_in_words() -> None:
    result = dpdm("--sigma", "17.12345678901234", "--accountant", "rdp")
    values = values_of("--sigma", "17.12345678901234", "--accountant", "rdp")
    assert result.exit_code == 0
    for text in ("17.12345678901234", "60,000", repr(4096 / 60_000), "4,394", "one image"):
        assert text in result.stdout
    assert "add or remove one" in result.stdout
    shown = accounting.round_up(values["epsilon"], 4)
    assert f"Claim: ({shown}, 1e-05)-differential privacy" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    "epsilon", [9.99605827202435, 9.9999999, 10.0, 3.00001, 0.2, 1e-6, 12.9999]
)
def test_the_factor_in_the_claim_is_that_of_the_epsilon_beside_it(epsilon: float) -> None:
    made = Claim(epsilon=epsilon, delta=1e-5, accountant="rdp", epsilon_by={"rdp": epsilon})
    found = re.search(r"e\^([\d.]+) = ([\d.,]+), plus 1e-05\.$", made.sentence)
    assert found, made.sentence
    shown, factor = float(found[1]), float(found[2].replace(",", ""))
    assert epsilon <= shown <= epsilon + 1e-4
    assert math.exp(shown) <= factor <= math.exp(shown) + (1 if shown > 3 else 0.01)
    assert made.sentence.startswith(f"({found[1]}, 1e-05)-")


def test_sigma_and_epsilon_are_each_others_inverse() -> None:
    there = values_of("--eps", "2", *OWN, "--steps", "100")
    back = values_of("--sigma", repr(there["sigma"]), *OWN, "--steps", "100")
    assert back["epsilon"] == there["epsilon"]
    assert back["target_epsilon"] is None
    assert back["slack"] is None


def test_a_warm_start_is_paid_from_the_same_budget(tmp_path: Path) -> None:
    cold = values_of("--eps", "2", *OWN, "--steps", "100")
    warm = values_of("--eps", "2", *OWN, "--steps", "100", "--warm-start", "moments")
    more = ["--warm-start", "moments", "--warm-share", "0.5", "--out", str(tmp_path / "plan.json")]
    larger = values_of("--eps", "2", *OWN, "--steps", "100", *more)
    assert (cold["warm_start"], cold["warm_sigma"]) == ("none", None)
    assert warm["warm_start"] == "moments"
    assert cold["sigma"] < warm["sigma"] < larger["sigma"]
    assert warm["warm_sigma"] > larger["warm_sigma"]
    assert all(1.98 <= values["epsilon"] <= 2 for values in (cold, warm, larger))
    assert read_plan_file(tmp_path / "plan.json").plan.warm_sigma == larger["warm_sigma"]


@pytest.mark.parametrize(
    "options",
    [
        ["--eps", "2", "--warm-share", "0.5"],
        ["--sigma", "2", "--warm-start", "means"],
        ["--eps", "2", "--profile", "paper", "--warm-start", "means"],
        ["--eps", "2", "--warm-start", "means", "--warm-share", "1"],
        ["--eps", "2", "--warm-start", "means", "--warm-share", "nan"],
    ],
)
def test_a_warm_start_that_makes_no_sense_is_refused(options: list[str]) -> None:
    result = dpdm(*options)
    assert result.exit_code == 2
    assert "error:" in result.stderr


def test_epochs_and_steps_say_the_same() -> None:
    by_epochs = values_of("--sigma", "2", *OWN, "--epochs", "3")
    assert by_epochs == values_of("--sigma", "2", *OWN, "--steps", "150")
    assert by_epochs["steps"] == 150


@pytest.mark.parametrize("option", ["--eps", "--epsilon", "-e"])
def test_epsilon_has_three_spellings(option: str) -> None:
    assert values_of(option, "8", *OWN, "--steps", "10")["target_epsilon"] == 8


@pytest.mark.parametrize("accountant", ["prv", "rdp", "pld"])
def test_the_claim_is_by_the_accountant_asked_for(accountant: str) -> None:
    values = values_of("--eps", "2", *OWN, "--steps", "50", "--accountant", accountant)
    assert values["claimed_by"] == values["accountant"] == accountant
    assert values["epsilon"] == values["epsilon_by"][accountant]
    assert 0.995 * 2 <= values["epsilon"] <= 2


@pytest.mark.parametrize(
    ("dataset", "epsilon", "sigma"),
    [
        ("mnist", "0.2", 82.5),
        ("mnist", "1", 18.28125),
        ("fashion-mnist", "10", 2.48779296875),
        ("celeba", "1", 8.828125),
        ("celeba", "10", 1.3037109375),
    ],
)
def test_the_paper_profile_gives_the_papers_sigmas(
    dataset: str, epsilon: str, sigma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # RDP claims this profile; the other accountants only cost time here.
    accounting._bounds.cache_clear()
    monkeypatch.setattr(accountants, "composed_prv_epsilon", refuses)
    monkeypatch.setattr(accountants, "composed_pld_epsilon", refuses)
    values = values_of("--eps", epsilon, "--dataset", dataset, "--profile", "paper")
    assert values["sigma"] == sigma
    assert values["claimed_by"] == "rdp"
    assert values["epsilon"] <= float(epsilon)
    accounting._bounds.cache_clear()
    assert 1 / values["sample_rate"] == pytest.approx(round(1 / values["sample_rate"]), rel=1e-12)


def refuses(*_: object) -> float:
    raise accountants.NotComputable("replaced")


def test_the_paper_profile_takes_a_sigma_too() -> None:
    values = values_of("--sigma", "18.28125", "--profile", "paper")
    assert values["sample_rate"] == 1 / 15
    assert values["steps"] == 4500
    assert values["epsilon"] == pytest.approx(0.9911, abs=1e-4)


def test_a_saved_plan_is_what_json_says_and_what_training_reads(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    values = values_of("--eps", "2", *OWN, "--steps", "50", "--out", str(path))
    assert json.loads(path.read_text()) == values
    plan = read_plan_file(path).plan
    assert {name: values[name] for name in plan.to_dict()} == plan.to_dict()
    assert check_plan_file(path) == (plan, claim(plan))


def test_a_plan_file_that_states_less_risk_than_it_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    values = values_of("--eps", "2", *OWN, "--steps", "50", "--out", str(path))
    values["risk"]["attack"]["guess_at_even_odds"] = 0.51
    path.write_text(json.dumps(values))
    with pytest.raises(PrivacyError, match="its plan allows"):
        check_plan_file(path)
    del values["risk"]  # as files without one are
    path.write_text(json.dumps(values))
    assert check_plan_file(path)[0] == read_plan_file(path).plan


def test_people_see_the_risk_and_the_shares_of_the_budget() -> None:
    result = dpdm("--eps", "2", *OWN, "--steps", "50", "--warm-start", "means")
    for text in ("accuracy at even odds", "TPR at 0.1 % FPR", "regret", "without amplification"):
        assert text in result.stdout
    shares = re.search(r"means ([\d.]+) %, steps ([\d.]+) %", result.stdout)
    assert shares
    assert float(shares[1]) + float(shares[2]) == pytest.approx(100)


def test_a_plan_is_never_written_over_another_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("mine")
    result = dpdm("--eps", "2", *OWN, "--steps", "50", "--out", str(path))
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert path.read_text() == "mine"


def test_quiet_prints_nothing_but_still_writes(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    result = dpdm("--sigma", "2", *OWN, "--steps", "5", "--quiet", "--out", str(path))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert read_plan_file(path).plan.sigma == 2


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ([], 2, "--eps"),
        (["--eps", "1", "--sigma", "2"], 2, "--sigma"),
        (["--eps", "0"], 2, "epsilon"),
        (["--eps", "-1"], 2, "epsilon"),
        (["--eps", "nan"], 2, "epsilon"),
        (["--eps", "inf"], 2, "epsilon"),
        (["--eps", "ten"], 2, "--eps"),
        (["--eps", "5000"], 5, "1000"),
        (["--sigma", "nan"], 2, "sigma"),
        (["--sigma", "0"], 2, "sigma"),
        (["--sigma", "-2"], 2, "sigma"),
        (["--eps", "1", "--delta", "0"], 2, "delta"),
        (["--eps", "1", "--delta", "nan"], 2, "delta"),
        (["--eps", "1", "--delta", "1e-4"], 5, "1/N"),
        (["--eps", "1", "--delta", "1"], 5, "1/N"),
        (["--eps", "1", "--dataset-size", "0"], 2, "N must be at least 1, found 0"),
        (
            ["--eps", "1", *OWN, "--dataset-size", "-3", "--steps", "5"],
            2,
            "N must be at least 1, found -3",
        ),
        (["--eps", "1", "--dataset-size", "500"], 2, "batch-size"),
        (["--eps", "1", *OWN, "--dataset-size", "1.5", "--steps", "5"], 2, "--dataset-size"),
        (["--eps", "1", *OWN, "--batch-size", "5001", "--steps", "5"], 2, "5000"),
        (["--eps", "1", *OWN, "--batch-size", "nan", "--steps", "5"], 2, "batch-size"),
        (["--eps", "1", *OWN, "--steps", "0"], 2, "steps"),
        (["--eps", "1", *OWN, "--epochs", "-3"], 2, "epochs"),
        (["--eps", "1", *OWN, "--epochs", "3", "--steps", "5"], 2, "--steps"),
        (["--eps", "1", *OWN], 2, "--epochs"),
        (["--eps", "1", "--clip-norm", "inf"], 2, "clip_norm"),
        (["--eps", "1", "--noise-multiplicity", "0"], 2, "noise_multiplicity"),
        (["--eps", "1", "--accountant", "gdp"], 5, "not a bound"),
        (["--eps", "1", "--accountant", "gpd"], 2, "gpd"),
        (["--eps", "1", "--dataset", "svhn"], 2, "svhn"),
        (["--eps", "1", "--profile", "paper", "--accountant", "prv"], 2, "rdp"),
        (["--eps", "1", "--profile", "paper", "--batch-size", "70000"], 2, "60000"),
        (["--eps", "1", "--out", "/nowhere/plan.json"], 2, "/nowhere"),
    ],
)
def test_garbage_is_refused_before_any_accountant_sees_it(
    options: list[str], code: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(*_: object) -> float:
        raise AssertionError("an accountant was asked")

    for name in ("composed_rdp_epsilon", "composed_prv_epsilon", "composed_pld_epsilon"):
        monkeypatch.setattr(accountants, name, seen)
    result = dpdm(*options)
    assert result.exit_code == code, result.output
    assert text in result.stderr
    assert result.stdout == ""


def test_an_accountant_that_steps_back_is_a_warning() -> None:
    result = dpdm("--eps", "70", *OWN, "--steps", "50", "--json")
    values = json.loads(result.stdout)
    assert values["claimed_by"] == values["accountant"] == "rdp"
    assert "claimed by RDP" in result.stderr
    assert "PRV" in result.stderr


def test_pld_in_place_of_prv_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    accounting._bounds.cache_clear()
    monkeypatch.setattr(accountants, "composed_prv_epsilon", refuses)
    result = dpdm("--eps", "2", *OWN, "--steps", "50", "--json")
    accounting._bounds.cache_clear()
    values = json.loads(result.stdout)
    assert values["claimed_by"] == values["accountant"] == "pld"
    assert "claimed by PLD: PRV is not computable here: replaced" in result.stderr


@pytest.mark.parametrize(
    "dataset", ["digits", "mnist", "fashion-mnist", "cifar10", "celeba", "celeba64", "imagenet32"]
)
def test_every_known_data_set_has_a_whole_plan(dataset: str) -> None:
    plan = api.calibrate(dataset=dataset, sigma=100, accountant="rdp").plan
    assert 0 < plan.delta < 1 / plan.dataset_size
    assert 0 < plan.expected_batch_size <= plan.dataset_size
    assert plan.steps * plan.sample_rate >= 50  # passes over the data


def test_an_unknown_data_set_is_named() -> None:
    with pytest.raises(UsageError, match="svhn"):
        api.calibrate(dataset="svhn", epsilon=1)


def test_from_python_it_is_what_the_command_is(tmp_path: Path) -> None:
    """The same names, defaults, figures and file."""
    keywords = inspect.signature(api.calibrate).parameters
    words = inspect.signature(calibrate).parameters
    assert {*keywords} - {"reporter"} == {*words} - {"as_json", "quiet", "plot"}
    shared = keywords.keys() & words.keys()
    assert {n: keywords[n].default for n in shared} == {n: words[n].default for n in shared}
    values = values_of("digits", "--eps", "2", "--steps", "9", "--accountant", "rdp")
    file = tmp_path / "plan.json"
    found = api.calibrate("digits", epsilon=2, steps=9, accountant="rdp", out=file)
    assert found.to_dict() == values == json.loads(file.read_text())
    assert values["risk"] == found.risk.to_json()
    assert 0.5 < found.attack_risk.guess < 1


def test_settings_of_a_set_go_with_a_number_of_images_of_ones_own() -> None:
    values = values_of("--eps", "10", "--settings-for", "imagenet32", "--dataset-size", "100000")
    assert values["dataset_size"] == 100_000
    assert (values["expected_batch_size"], values["delta"]) == (2048, 7e-7)
    assert values["steps"] == steps_for_epochs(100_000, 2048, 100)
    assert values["noise_multiplicity"] == 8
    own = values_of(
        "--eps",
        "10",
        "--settings-for",
        "celeba64",
        "--dataset-size",
        "5000",
        "-B",
        "100",
        "--steps",
        "9",
    )
    assert (own["expected_batch_size"], own["steps"], own["delta"]) == (100, 9, 1e-6)


def test_settings_of_one_set_go_with_the_published_size_of_another() -> None:
    values = values_of("--sigma", "2", "--dataset", "mnist", "--settings-for", "cifar10")
    assert values["dataset_size"] == 60_000
    assert (values["expected_batch_size"], values["noise_multiplicity"]) == (2048, 8)


def test_settings_alone_say_nothing_of_n() -> None:
    result = dpdm("--eps", "10", "--settings-for", "imagenet32")
    assert result.exit_code == 2
    assert "N is not known" in result.stderr
    assert "--dataset-size" in result.stderr


def test_settings_for_an_unknown_set_are_refused_with_those_that_are_known() -> None:
    result = dpdm("--eps", "10", "--settings-for", "svhn", "--dataset-size", "1000")
    assert result.exit_code == 2
    for known in ("svhn", "celeba64", "imagenet32"):
        assert known in result.stderr
