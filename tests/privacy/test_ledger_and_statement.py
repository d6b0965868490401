"""The ledger counts what was released; the statement says it and no less."""

from __future__ import annotations

import json
import math

import pytest
import tiny

from dpdm_cli.errors import DamagedFileError, PrivacyError
from dpdm_cli.privacy.accounting import claim
from dpdm_cli.privacy.ledger import Ledger, shared_releases
from dpdm_cli.privacy.public_inputs import PUBLISHED
from dpdm_cli.privacy.statement import (
    NOT_PRIVATE,
    check_statement,
    headline,
    non_private_statement,
    private_statement,
)


def spent(steps: int, **changes: object) -> Ledger:
    return tiny.ledger(tiny.plan(steps=30, **changes), steps)


def test_a_ledger_survives_storage() -> None:
    ledger = spent(7)
    again = Ledger.from_dict(ledger.plan, json.loads(json.dumps(ledger.to_dict())))
    assert (again.steps, again.head) == (7, ledger.head)


def test_ten_and_twenty_steps_are_thirty() -> None:
    ledger = Ledger.from_dict(spent(10).plan, spent(10).to_dict())
    for _ in range(20):
        ledger.record()
    assert [steps for _, steps in ledger.segments] == [10, 20]
    assert Ledger.from_dict(ledger.plan, ledger.to_dict()).head == ledger.head
    with pytest.raises(PrivacyError, match="spent"):
        ledger.record()


@pytest.mark.parametrize(
    "changes", [{"sigma": 1.1}, {"clip_norm": 2.0}, {"expected_batch_size": 17}]
)
def test_a_ledger_of_another_plan_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(PrivacyError, match="another privacy plan"):
        Ledger.from_dict(spent(1, **changes).plan, spent(1).to_dict())


@pytest.mark.parametrize(
    "damage",
    [{"releases": 3}, {"releases": -1}, {"releases": 99}, {"releases": "7"}, {"head": "0" * 64}],
)
def test_an_altered_ledger_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(DamagedFileError):
        Ledger.from_dict(spent(7).plan, {**spent(7).to_dict(), **damage})


def test_the_statement_never_claims_less_than_the_plan_costs() -> None:
    ledger = spent(30)
    statement = private_statement(ledger, PUBLISHED)
    exact = claim(ledger.plan).epsilon
    assert exact <= statement["epsilon"] <= exact + 1e-4
    assert float(headline(statement).split()[1].rstrip(",")) >= exact


def test_the_statement_names_everything_a_reader_needs() -> None:
    statement = private_statement(spent(30), PUBLISHED)
    json.dumps(statement, allow_nan=False)
    for key in [
        "sigma",
        "sample_rate",
        "steps",
        "epsilon",
        "delta",
        "expected_batch_size",
        "dataset_size",
        "epsilon_by",
        "clip_norm",
        "noise_multiplicity",
        "adjacency",
        "unit",
        "sampling",
        "accountant",
        "divisor",
        "not_covered",
        "ledger",
    ]:
        assert statement[key] not in (None, "", []), key
    assert statement["adjacency"] == "add-or-remove-one"
    assert "adding or removing one image" in statement["text"]
    assert any("tuning" in line for line in statement["not_covered"])
    assert any("private images" in line for line in statement["not_covered"])


@pytest.mark.parametrize(
    ("epsilon", "shown"), [(9.9999, "10"), (10.0001, "10.01"), (0.19999, "0.2"), (1.0, "1")]
)
def test_the_headline_rounds_up(epsilon: float, shown: str) -> None:
    line = headline({"private": True, "epsilon": epsilon, "delta": 1e-5})
    assert line.startswith(f"epsilon {shown},")
    assert float(shown) >= epsilon or math.isclose(float(shown), epsilon)


def test_a_run_of_no_steps_claims_nothing() -> None:
    with pytest.raises(PrivacyError, match="nothing to claim"):
        private_statement(spent(0), PUBLISHED)


def test_without_privacy_nothing_is_claimed() -> None:
    statement = non_private_statement(12)
    assert statement["text"] == NOT_PRIVATE
    assert statement["epsilon"] is None
    assert headline(statement) == "NOT PRIVATE"


def test_the_statement_word_by_word() -> None:
    plan = tiny.plan(dataset_size=60_000, expected_batch_size=600, steps=30, sigma=1.5, delta=1e-6)
    statement = private_statement(tiny.ledger(plan, 30), PUBLISHED)
    assert statement["text"] == (
        f"({statement['epsilon']}, 1e-06)-differentially private with respect to adding or removing one image among "
        "60,000 (a public number). Taken as known to everybody: number of images, class names, image size, colours "
        "(published with the set). One run of DP-SGD: 30 steps, Poisson sampling at rate 0.01, one gradient an image "
        "(mean over 2 noisy copies) clipped to norm 1, Gaussian noise of 1.5 times that norm; epsilon by PRV, an upper "
        "bound."
    )
    assert {"prv", "rdp"} <= statement["epsilon_by"].keys()
    assert statement["not_covered"][0].endswith("hyper-parameter tuning on them included")


def test_a_statement_that_follows_from_its_plan_gives_its_ledger_back() -> None:
    ledger = spent(30)
    statement = json.loads(json.dumps(private_statement(ledger, PUBLISHED)))
    assert check_statement(statement).head == ledger.head
    assert check_statement(
        {
            **statement,
            "epsilon": statement["epsilon"] + 1,
            "text": statement["text"].replace(
                f"({statement['epsilon']},", f"({statement['epsilon'] + 1},"
            ),
        }
    )  # claiming less privacy than there is harms nobody
    with pytest.raises(PrivacyError, match="its plan costs"):
        check_statement({**statement, "epsilon": 0.9 * statement["epsilon"]})


def test_ledgers_share_what_was_done_before_a_fork() -> None:
    trunk = spent(5)
    one, two = (Ledger.from_dict(trunk.plan, trunk.to_dict()) for _ in range(2))
    assert shared_releases(one, two) == 5
    for ledger, steps in ((one, 7), (two, 3), (trunk, 2)):
        for _ in range(steps):
            ledger.record()
    assert shared_releases(one, two) == shared_releases(one, trunk) == 5
    assert shared_releases(one, one) == 12
    assert shared_releases(trunk, spent(7)) == 0
    later = Ledger.from_dict(one.plan, one.to_dict())
    later.record()
    assert shared_releases(one, later) == 12


def test_a_statement_that_lacks_a_word_is_damaged() -> None:
    statement = private_statement(spent(30), PUBLISHED)
    check_statement(statement)
    for name in statement.keys() - {"private", "plan", "ledger"}:
        with pytest.raises(DamagedFileError):
            check_statement({key: value for key, value in statement.items() if key != name})
