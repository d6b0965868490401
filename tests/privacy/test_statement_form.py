"""The second form of a statement: its risk, its publisher's words, and what is said of other forms."""

from __future__ import annotations

import json

import pytest
from support import tiny
from support.statements import checked, rebuilt, stated

from dpdm_cli.errors import DamagedFileError, PrivacyError
from dpdm_cli.privacy.ledger import Ledger


def spent(steps: int) -> Ledger:
    return tiny.ledger(tiny.plan(steps=30), steps)


def test_a_risk_below_the_plans_is_a_false_claim_and_one_far_above_it_damage() -> None:
    statement = stated(spent(30))
    for path, less, more in (
        (("attack", "guess_at_even_odds"), 0.7, 0.9),
        (("gaussian_dp", "mu"), 1.0, 3.0),
        (("epsilon_without_amplification",), 9.0, 99.0),
    ):
        for value, error in ((less, PrivacyError), (more, DamagedFileError)):
            changed = json.loads(json.dumps(statement))
            place = changed["risk"]
            for name in path[:-1]:
                place = place[name]
            place[path[-1]] = value
            with pytest.raises(error, match="its plan allows"):
                checked(changed)
    one_digit = json.loads(json.dumps(statement))
    one_digit["risk"]["attack"]["guess_at_even_odds"] += 1e-4
    checked(one_digit)  # another release of the libraries may round so


@pytest.mark.parametrize("name", ["purpose", "source", "contact"])
def test_what_a_publisher_said_is_read_and_never_made_anew(name: str) -> None:
    statement = stated(spent(30))
    said = {**statement, "said_by_the_publisher": {**statement["said_by_the_publisher"]}}
    said["said_by_the_publisher"][name] = "image 17 shows Ada Lovelace"
    checked(said)
    assert rebuilt(said) == statement
    for foreign in ("two\nlines", "\x1b[2J", "x" * 301, " blank", "", 17, None, [], "\u202e"):
        said["said_by_the_publisher"][name] = foreign
        with pytest.raises((DamagedFileError, PrivacyError)):
            checked(said)


def test_a_statement_of_another_form_says_what_to_do() -> None:
    first = {name: value for name, value in stated(spent(30)).items() if name != "schema"}
    with pytest.raises(DamagedFileError, match="earlier form") as caught:
        checked(first)
    assert "release of dpdm that wrote it" in str(caught.value.hint)
    with pytest.raises(DamagedFileError, match="urn:dpdm:statement:7") as caught:
        checked({**stated(spent(30)), "schema": "urn:dpdm:statement:7"})
    assert "newer" in str(caught.value.hint)
