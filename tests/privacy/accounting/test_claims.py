"""A claim is an upper bound by the best accountant that can be trusted, and says which and why."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.accounting import (
    Q_MNIST,
    SPARSE,
    plan_with,
    pld_epsilon,
    prv_epsilon,
)

from dpdm_cli.errors import DamagedFileError, PrivacyError, UsageError
from dpdm_cli.privacy.accounting import accountants
from dpdm_cli.privacy.accounting import claims as accounting
from dpdm_cli.privacy.accounting.accountants import (
    NotComputable,
)
from dpdm_cli.privacy.accounting.claims import (
    check_plan_file,
    claim,
    compose,
    planned,
    round_up,
)
from dpdm_cli.privacy.ledger import PublishedLedger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.plan_file import write_plan_file
from dpdm_cli.privacy.public_inputs import PUBLISHED
from dpdm_cli.privacy.statement import private_statement


@pytest.fixture
def unremembered() -> Iterator[None]:
    """For tests that replace an accountant: its answers must not outlive it."""
    accounting._bounds.cache_clear()
    yield
    accounting._bounds.cache_clear()


def test_a_claim_is_prvs_and_shows_every_accountant() -> None:
    made = claim(plan_with(sigma=17.0))
    assert (made.accountant, made.reason, made.delta) == ("prv", "", 1e-5)
    assert set(made.epsilon_by) == {"prv", "rdp", "pld"}
    assert made.epsilon == made.epsilon_by["prv"]


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_a_claim_is_made_by_the_accountant_of_the_plan(accountant: str) -> None:
    made = claim(plan_with(sigma=17.0, accountant=accountant))
    assert made.accountant == accountant
    assert made.epsilon == made.epsilon_by[accountant]


def test_fewer_steps_claim_less_and_no_step_claims_nothing() -> None:
    plan = plan_with(sigma=17.0)
    assert claim(plan, 1000).epsilon < claim(plan, 2000).epsilon < claim(plan).epsilon
    assert claim(plan, plan.steps) == claim(plan)
    for nothing in (0, -5, 1.5, math.nan):
        with pytest.raises(UsageError):
            claim(plan, nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sigma": 0.9}, "beyond 50"),
        ({"delta": 1e-13}, "rounding error"),
        ({"steps": 10**6, "delta": 1e-9}, "rounding error"),
        ({"steps": 4 * 10**8, "sigma": 1e5}, "grid"),
        ({"sigma": 1e9}, "1e+06"),
    ],
)
def test_where_prv_is_not_computable_rdp_claims_and_says_why(
    changes: dict[str, Any], reason: str
) -> None:
    made = claim(plan_with(**changes))
    assert made.accountant == "rdp"
    assert made.epsilon == made.epsilon_by["rdp"]
    assert reason in made.reason


@pytest.mark.usefixtures("unremembered")
@pytest.mark.parametrize("answer", [0.5, 2.0])
def test_prv_that_disagrees_with_the_others_does_not_claim(
    monkeypatch: pytest.MonkeyPatch, answer: float
) -> None:
    monkeypatch.setattr(accountants, "composed_prv_epsilon", lambda *_: answer)
    made = claim(plan_with(sigma=2.0, steps=40))
    assert made.epsilon == made.epsilon_by["rdp"]
    assert "disagree" in made.reason or "above RDP" in made.reason


def test_a_coarse_pld_is_refined_before_it_counts_as_disagreement() -> None:
    # At interval 1e-4 PLD rounds 10^5 tiny losses up, to twice the truth.
    plan = PrivacyPlan(
        dataset_size=100_000, expected_batch_size=1, steps=10**5, sigma=1.0, delta=1e-6
    )
    made = claim(plan)
    assert pld_epsilon(plan.sample_rate, 1.0, plan.steps, 1e-6) > 2 * made.epsilon_by["pld"]
    assert made.accountant != "rdp"
    assert made.epsilon <= made.epsilon_by["prv"] < 1.2 * made.epsilon_by["pld"]


def test_prv_on_a_coarser_grid_comes_before_rdp() -> None:
    # ImageNet: PRV with an error of 0.01 would need more points than there may be.
    q, sigma, steps, delta = 2048 / 1_281_167, 0.7362936, 187_670, 1e-7
    grid = accountants.prv_grid(((q, sigma, steps),), delta, 0.01)
    assert 0.01 < grid.eps_error < 0.02
    assert 2 * grid.half_width / grid.mesh == pytest.approx(accountants.MAX_PRV_POINTS)
    made = claim(
        plan_with(
            dataset_size=1_281_167, expected_batch_size=2048, sigma=sigma, steps=steps, delta=delta
        )
    )
    assert (made.accountant, made.reason) == ("prv", "")
    assert made.epsilon_by["pld"] <= made.epsilon < 0.95 * made.epsilon_by["rdp"]


@pytest.mark.parametrize("sigma", [0.6, 0.8, 1.4])
def test_where_rdp_is_far_above_the_truth_the_claim_is_not(sigma: float) -> None:
    made = claim(plan_with(**SPARSE, sigma=sigma))
    assert made.epsilon_by["rdp"] > 10 * made.epsilon_by["pld"]
    assert made.epsilon_by["pld"] <= made.epsilon <= 1.02 * made.epsilon_by["pld"]
    # What PRV adds is 1 % of epsilon, or what four million points allow.
    assert made.epsilon_by["prv"] <= 1.02 * made.epsilon_by["pld"] + 2e-4


def test_where_prv_is_too_coarse_pld_claims_and_says_why() -> None:
    plan = plan_with(**SPARSE, sigma=1.4)
    made = claim(plan)
    assert made.accountant == "pld"
    assert made.epsilon == made.epsilon_by["pld"] < made.epsilon_by["prv"]
    assert "PRV's grid" in made.reason
    ledger = PublishedLedger(plan, 1, ("0" * 32,))
    assert private_statement(ledger, PUBLISHED).reason == "too coarse"
    assert claim(dataclasses.replace(plan, accountant="pld")).reason == ""


@pytest.mark.usefixtures("unremembered")
def test_where_prv_has_no_bound_pld_claims_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accountants, "composed_prv_epsilon", refuses)
    made = claim(plan_with(sigma=17.0))
    assert made.accountant == "pld"
    assert made.epsilon == made.epsilon_by["pld"]
    assert made.reason == "PRV is not computable here: replaced"


def refuses(*_: object) -> float:
    raise NotComputable("replaced")


@pytest.mark.usefixtures("unremembered")
@pytest.mark.parametrize("answer", [0.5, 2.0])
def test_releases_together_are_cross_checked_as_one_plan_is(
    monkeypatch: pytest.MonkeyPatch, answer: float
) -> None:
    parts = plan_with(sigma=2.0, steps=40).parts()
    assert compose(parts, 1e-5) == claim(plan_with(sigma=2.0, steps=40))
    accounting._bounds.cache_clear()
    monkeypatch.setattr(accountants, "composed_prv_epsilon", lambda *_: answer)
    together = compose([*parts, (1.0, 30.0, 2)], 1e-5)
    assert set(together.epsilon_by) == {"prv", "rdp", "pld"}
    assert together.epsilon == together.epsilon_by["rdp"]
    assert "disagree" in together.reason or "above RDP" in together.reason


def test_too_little_noise_is_refused_and_not_claimed() -> None:
    with pytest.raises(PrivacyError, match="no finite epsilon"):
        claim(plan_with(sigma=1e-3))


@pytest.mark.parametrize(
    "changes",
    [
        {"sigma": 1e-3},
        {"sigma": 0.011},
        {"sigma": 0.1},
        {"sigma": 0.9},
        {"sigma": 1e-300},
        {"sigma": 1e300},
        {"sigma": 1e5, "expected_batch_size": 30_000},
        {"sigma": 3e3, "expected_batch_size": 30_000, "steps": 10**6},
        {"steps": 10**6, "expected_batch_size": 60, "sigma": 1.0},
        {"steps": 10**9},
        {"delta": 1e-300},
        {"delta": 1e-12},
        {"expected_batch_size": 60_000, "sigma": 1e4},
        {"expected_batch_size": 1e-300, "sigma": 1e300},
        {"expected_batch_size": 1e-7, "steps": 10**6, "sigma": 30.0},
        {"expected_batch_size": 8000, "steps": 1_800_000, "sigma": 76.0},
        {"dataset_size": 1, "expected_batch_size": 1, "delta": 0.5},
        {"dataset_size": 1, "expected_batch_size": 1, "delta": 0.999, "sigma": 100.0},
    ],
)
def test_extreme_plans_get_a_safe_answer_or_a_refusal_in_seconds(changes: dict[str, Any]) -> None:
    begun = time.monotonic()
    try:
        made = claim(plan_with(**changes))
    except PrivacyError:
        assert changes["sigma"] < 0.01
    else:
        assert 0 <= made.epsilon < math.inf
        assert made.epsilon_by["rdp"] >= 0
    assert time.monotonic() - begun < 30


def test_delta_of_one_half_does_not_give_a_negative_epsilon() -> None:
    plan = PrivacyPlan(dataset_size=1, expected_batch_size=1, steps=1, sigma=3.0, delta=0.5)
    assert claim(plan).epsilon >= 0


def written(path: Path, **changes: Any) -> PrivacyPlan:
    plan = plan_with(sigma=17.0)
    write_plan_file(path, dataclasses.replace(planned(plan), **changes))
    return plan


def test_an_honest_plan_file_passes(tmp_path: Path) -> None:
    plan = written(tmp_path / "plan.json")
    assert check_plan_file(tmp_path / "plan.json") == (plan, claim(plan))


def test_a_plan_file_that_states_too_little_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "plan.json", epsilon=0.9)
    with pytest.raises(PrivacyError, match=r"0\.9"):
        check_plan_file(tmp_path / "plan.json")


@pytest.mark.parametrize("epsilon", ["1.0", None, True, [1.0]])
def test_a_plan_file_whose_epsilon_is_no_number_is_damaged(tmp_path: Path, epsilon: Any) -> None:
    written(tmp_path / "plan.json", epsilon=epsilon)
    with pytest.raises(DamagedFileError, match="epsilon"):
        check_plan_file(tmp_path / "plan.json")


def test_a_plan_file_whose_epsilon_is_nan_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "plan.json")
    values = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "nan.json").write_text(json.dumps({**values, "epsilon": math.nan}))
    with pytest.raises(DamagedFileError, match="NaN"):
        check_plan_file(tmp_path / "nan.json")


@pytest.mark.parametrize(
    ("value", "digits", "rounded"),
    [
        (9.9999, 2, 10.0),
        (10.0001, 2, 10.01),
        (10.0, 2, 10.0),
        (0.07, 2, 0.07),
        (1e-5, 2, 0.01),
        (1e-5, 5, 1e-5),
        (0.0, 3, 0.0),
        (10.01, 2, 10.01),
        (2.4828, 0, 3.0),
        (math.inf, 2, math.inf),
    ],
)
def test_rounding_goes_up_and_leaves_round_numbers(
    value: float, digits: int, rounded: float
) -> None:
    assert round_up(value, digits) == rounded


@given(value=st.floats(0, 1e6), digits=st.integers(0, 6))
@settings(max_examples=200, deadline=None)
def test_rounding_is_never_down_and_never_a_whole_digit_up(value: float, digits: int) -> None:
    rounded = round_up(value, digits)
    assert value <= rounded < value + 1.000001 * 10.0**-digits


def test_a_printed_claim_is_rounded_up() -> None:
    made = claim(plan_with(sigma=17.0))
    for epsilon, text in ((9.9999, "10.00"), (10.0001, "10.01"), (0.19981, "0.1999")):
        assert dataclasses.replace(made, epsilon=epsilon).epsilon_text == text


def test_not_computable_is_for_the_accountants_alone() -> None:
    with pytest.raises(NotComputable):
        prv_epsilon(Q_MNIST, 0.5, 4394, 1e-5, 0.01)
    with pytest.raises(NotComputable):
        pld_epsilon(Q_MNIST, 0.2, 4394, 1e-5)
