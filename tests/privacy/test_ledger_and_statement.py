"""The ledger counts what was released; the statement says it and no less."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import math

import pytest
from support import tiny
from support.statements import checked, lowered, rebuilt, stated, understood

from dpdm_cli.errors import DamagedFileError, PrivacyError
from dpdm_cli.privacy.accounting.claims import claim
from dpdm_cli.privacy.ledger import Ledger, PublishedLedger
from dpdm_cli.privacy.public_inputs import PUBLISHED
from dpdm_cli.privacy.statement import (
    NOT_PRIVATE,
    REASONS,
    non_private_statement,
    private_statement,
    read_statement,
)


def spent(steps: int, **changes: object) -> Ledger:
    return tiny.ledger(tiny.plan(steps=30, **changes), steps)


def test_a_ledger_survives_storage() -> None:
    ledger = spent(7)
    again = Ledger.from_json(ledger.plan, json.loads(json.dumps(ledger.to_json())))
    again.check_chain()
    assert (again.steps, again.head) == (7, ledger.head)


def test_a_release_enters_the_chain_as_json() -> None:
    ledger = spent(7)
    ((name, _),) = ledger.segments
    head = hashlib.sha256(ledger.plan.digest().encode()).hexdigest()
    for release in range(1, 8):
        line = {"previous": head, "segment": name, "release": release}
        head = hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()
    assert ledger.head == head


def test_what_a_private_ledger_says_may_be_known_needs_no_chain() -> None:
    ledger = spent(7)
    assert Ledger.from_json(ledger.plan, ledger.to_json()).published() == ledger.published()
    for damage in ({"releases": 6}, {"releases": -1}, {"segments": [["0" * 32, 6]]}):
        with pytest.raises(DamagedFileError):
            Ledger.from_json(ledger.plan, {**ledger.to_json(), **damage})


@pytest.mark.parametrize("steps", [10**7, 10**9])
def test_a_ledger_of_many_steps_is_judged_by_arithmetic(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny.plan(steps=steps, sigma=3000.0)
    many = {"releases": steps, "plan_digest": plan.digest(), "head": "0" * 64}
    monkeypatch.setattr(Ledger, "_enter", lambda _: pytest.fail("one by one"))
    published = PublishedLedger(plan, steps, ("0" * 32,))
    assert PublishedLedger.from_json(plan, published.to_json()) == published
    assert (
        Ledger.from_json(plan, {**many, "segments": [["0" * 32, steps]]}).published() == published
    )
    with pytest.raises(DamagedFileError):
        PublishedLedger.from_json(plan, {**many, "processes": ["0" * 32]})


def test_ten_and_twenty_steps_are_thirty() -> None:
    ledger = Ledger.from_json(spent(10).plan, spent(10).to_json())
    for _ in range(20):
        ledger.record()
    assert [steps for _, steps in ledger.segments] == [10, 20]
    Ledger.from_json(ledger.plan, ledger.to_json()).check_chain()
    with pytest.raises(PrivacyError, match="spent"):
        ledger.record()


@pytest.mark.parametrize(
    "changes", [{"sigma": 1.1}, {"clip_norm": 2.0}, {"expected_batch_size": 17}]
)
def test_a_ledger_of_another_plan_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(PrivacyError, match="another privacy plan"):
        Ledger.from_json(spent(1, **changes).plan, spent(1).to_json())


@pytest.mark.parametrize(
    "damage",
    [{"releases": 3}, {"releases": -1}, {"releases": 99}, {"releases": "7"}, {"head": "0" * 64}],
)
def test_an_altered_ledger_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(DamagedFileError):
        Ledger.from_json(spent(7).plan, {**spent(7).to_json(), **damage}).check_chain()


def test_the_statement_never_claims_less_than_the_plan_costs() -> None:
    ledger = spent(30)
    statement = stated(ledger)
    exact = claim(ledger.plan).epsilon
    assert exact <= statement["epsilon"] <= exact + 1e-4
    assert float(read_statement(statement).headline.split()[1].rstrip(",")) >= exact


def test_the_statement_names_everything_a_reader_needs() -> None:
    statement = stated(spent(30))
    json.dumps(statement, allow_nan=False)
    for key in [
        "mechanism",
        "adjacency",
        "unit",
        "epsilon",
        "delta",
        "accountant",
        "epsilon_by",
        "risk",
        "plan",
        "ledger",
        "public_inputs",
        "not_covered",
        "selection",
        "trust_model",
        "tool",
        "date",
        "checks_before_training",
        "said_by_the_publisher",
        "schema",
    ]:
        assert statement[key] not in (None, "", []), key
    assert statement["selection"] == {"runs": "not stated", "chosen_by": "not stated"}
    assert set(statement["said_by_the_publisher"].values()) == {"not stated"}
    # Each figure of the plan stands there and nowhere else.
    assert statement.keys() & statement["plan"].keys() == {
        "adjacency",
        "unit",
        "delta",
        "accountant",
    }
    assert statement["adjacency"] == "add-or-remove-one"
    assert "adding or removing one image" in statement["text"]
    assert any("tuning" in line for line in statement["not_covered"])
    assert any("private images" in line for line in statement["not_covered"])


@pytest.mark.parametrize(
    ("epsilon", "shown"), [(9.9999, "10"), (10.0001, "10.01"), (0.19999, "0.2"), (1.0, "1")]
)
def test_the_headline_rounds_up(epsilon: float, shown: str) -> None:
    statement = private_statement(spent(30, delta=1e-5), PUBLISHED)
    line = dataclasses.replace(statement, accountant="rdp", epsilon_by={"rdp": epsilon}).headline
    assert line.startswith(f"epsilon {shown},")
    assert float(shown) >= epsilon or math.isclose(float(shown), epsilon)


def test_a_run_of_no_steps_claims_nothing() -> None:
    with pytest.raises(PrivacyError, match="nothing to claim"):
        private_statement(spent(0), PUBLISHED)


def test_without_privacy_nothing_is_claimed() -> None:
    statement = non_private_statement(12)
    assert read_statement(statement.to_json()) == statement
    assert (statement.text, statement.epsilon) == (NOT_PRIVATE, None)
    assert statement.headline == "NOT PRIVATE"


def test_the_statement_word_by_word() -> None:
    plan = tiny.plan(dataset_size=60_000, expected_batch_size=600, steps=30, sigma=1.5, delta=1e-6)
    statement = stated(tiny.ledger(plan, 30))
    assert statement["text"] == (
        f"({statement['epsilon']}, 1e-06)-differentially private with respect to adding or removing one image among "
        "60,000 (a public number). Taken as known to everybody: number of images, class names, image size, colours "
        "(published with the set). One run of DP-SGD: 30 steps, Poisson sampling at rate 0.01, one gradient an image "
        "(mean over 2 noisy copies) clipped to norm 1, Gaussian noise of 1.5 times that norm; epsilon by PRV, an upper "
        "bound."
    )
    assert {"prv", "rdp"} <= statement["epsilon_by"].keys()
    assert statement["not_covered"][0].endswith("hyper-parameter tuning on them included")


def test_a_statement_for_persons_follows_from_its_plan_and_none_for_images_can_say_it() -> None:
    of_persons = stated(tiny.ledger(tiny.plan(unit="one person"), 5))
    assert checked(of_persons).plan.record == "person"
    assert understood(of_persons).headline.endswith("per person")
    for name in ("text", "not_covered", "unit"):
        of_images = stated(tiny.ledger(tiny.plan(), 5))
        with pytest.raises(PrivacyError):
            understood({**of_images, name: of_persons[name]})
    # A ledger belongs to a plan with its unit.
    with pytest.raises(PrivacyError):
        understood({**of_images, "plan": of_persons["plan"], "unit": "one person"})


def test_a_statement_that_follows_from_its_plan_gives_its_ledger_back() -> None:
    ledger = spent(30)
    statement = stated(ledger)
    assert checked(statement) == ledger.published()
    assert rebuilt(statement) == statement
    with pytest.raises(PrivacyError, match="its plan costs"):
        checked(lowered(statement))


def test_a_claim_of_other_releases_of_the_accountants_holds_and_is_made_anew() -> None:
    """By RDP where PRV is computable by now; a bound that is missing; last digits that differ."""
    ledger = spent(30)
    now = stated(ledger)
    bounds = {"rdp": now["epsilon_by"]["rdp"], "prv": round(now["epsilon"] + 1e-4, 4)}
    text = now["text"].replace(f"({now['epsilon']},", f"({bounds['rdp']},")
    then = {
        **now,
        "epsilon": bounds["rdp"],
        "accountant": "rdp",
        "epsilon_by": bounds,
        "reason": "not computable",
        "text": text.replace("by PRV", "by RDP"),
    }
    assert checked(then) == ledger.published()
    assert rebuilt(then) == now
    with pytest.raises(DamagedFileError, match="reason"):
        checked({**then, "reason": ""})


def test_a_plan_that_its_accountant_cannot_claim_for_says_why_in_a_word() -> None:
    """Beyond 50 PRV has no answer."""
    statement = stated(spent(30, sigma=0.2))
    assert (statement["accountant"], statement["reason"]) == ("rdp", "not computable")
    assert statement["reason"] in REASONS
    checked(statement)


FOREIGN = (
    "image 17 shows Ada Lovelace",
    base64.b64encode(bytes(range(256)) * 132).decode(),
    12345.678,
    -1,
    10**400,
    True,
    [1, 2, 3],
    {"prv": "Ada Lovelace"},
    None,
)


def changed(value: object) -> list[object]:
    """What is foreign in the place of a value."""
    return [foreign for foreign in FOREIGN if json.dumps(foreign) != json.dumps(value)]


@pytest.mark.parametrize("key", sorted(stated(spent(30))))
def test_a_foreign_value_under_any_key_is_refused_and_never_made_anew(key: str) -> None:
    statement = stated(spent(30))
    for foreign in changed(statement[key]):
        with pytest.raises((DamagedFileError, PrivacyError)) as caught:
            checked({**statement, key: foreign})
        assert len(caught.value.message) < 500
        with contextlib.suppress(DamagedFileError, PrivacyError):
            assert rebuilt({**statement, key: foreign}) == statement


@pytest.mark.parametrize(
    "path",
    [
        *(("plan", key) for key in tiny.plan().to_dict()),
        *(("ledger", key) for key in tiny.ledger(tiny.plan(), 1).published().to_json()),
        *(("epsilon_by", name) for name in ("prv", "rdp", "pld", "more")),
        *(("risk", name) for name in (*stated(spent(30))["risk"], "more")),
        *(("tool", name) for name in ("name", "versions", "more")),
        *(("trust_model", name) for name in ("model", "images_seen_by", "machines", "noise_from")),
        *(("selection", name) for name in ("runs", "chosen_by", "more")),
        *(("said_by_the_publisher", name) for name in ("license", "more")),
        ("plan", "more"),
        ("ledger", "more"),
        ("ledger", "segments"),
    ],
    ids=".".join,
)
def test_a_foreign_value_below_a_key_is_refused(path: tuple[str, str]) -> None:
    statement = stated(spent(30))
    outer, inner = path
    for foreign in changed(statement[outer].get(inner, "absent")):
        with pytest.raises((DamagedFileError, PrivacyError)):
            checked({**statement, outer: {**statement[outer], inner: foreign}})


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("accountant", "prv and image 17", DamagedFileError),
        ("accountant", "moments", DamagedFileError),
        ("epsilon_by", {"Ada": 1.0}, DamagedFileError),
        ("epsilon_by", {}, DamagedFileError),
        ("reason", "because", DamagedFileError),
        ("reason", "not computable", DamagedFileError),
        ("public_inputs", {"dataset_size": "Ada"}, DamagedFileError),
        ("public_inputs", None, DamagedFileError),
        ("losses", [1.0], DamagedFileError),
        ("private", "yes", DamagedFileError),
        ("schema", "urn:dpdm:statement:1", DamagedFileError),
        ("sigma", 50.0, DamagedFileError),
        ("private", False, DamagedFileError),
        ("date", "2026-13-01", DamagedFileError),
        ("checks_before_training", "failed", DamagedFileError),
        ("delta", 1e-9, PrivacyError),
        ("mechanism", "none", PrivacyError),
        ("text", "perfectly private", PrivacyError),
        ("not_covered", [], PrivacyError),
    ],
)
def test_damage_is_told_from_a_false_claim_and_both_name_the_key(
    key: str, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match=key):
        checked({**stated(spent(30)), key: value})


def test_runs_that_went_on_from_one_state_show_it_and_not_when() -> None:
    trunk = spent(5)
    one, two = (Ledger.from_json(trunk.plan, trunk.to_json()) for _ in range(2))
    assert one.published() == two.published()
    for ledger, steps in ((one, 7), (two, 3), (trunk, 2)):
        for _ in range(steps):
            ledger.record()
    shown = [ledger.published().processes for ledger in (one, two, trunk)]
    assert shown[0][0] == shown[1][0] == shown[2][0]
    assert shown[0][1:] != shown[1][1:]
    assert spent(7).published().processes != shown[2]
    # The private ones tell after which release.
    assert [ledger.segments[0][1] for ledger in (one, two, trunk)] == [5, 5, 7]


def test_what_is_published_of_a_ledger_is_the_same_whenever_it_was_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two processes, thirty releases: how many the first one made is not told, not even by a digest."""
    shown = []
    for first in (3, 17):
        names = iter((b"\1" * 16, b"\2" * 16))
        with monkeypatch.context() as patch:
            patch.setattr("dpdm_cli.privacy.ledger.os.urandom", lambda _, names=names: next(names))
            begun = spent(first)
            ledger = Ledger.from_json(begun.plan, begun.to_json())
            for _ in range(30 - first):
                ledger.record()
        assert [made for _, made in ledger.segments] == [first, 30 - first]
        shown.append(stated(ledger))
    assert shown[0] == shown[1]


def test_a_published_ledger_survives_storage_and_no_part_of_it_can_be_changed() -> None:
    first = spent(10)
    ledger = Ledger.from_json(first.plan, first.to_json())
    ledger.record()
    shown = ledger.published()
    stored = json.loads(json.dumps(shown.to_json()))
    assert PublishedLedger.from_json(ledger.plan, stored) == shown
    assert (shown.steps, len(shown.processes)) == (11, 2)
    for change in (
        {"releases": 10},
        {"releases": 1},  # fewer than processes
        {"releases": True},
        {"processes": stored["processes"][::-1]},
        {"processes": stored["processes"][:1]},
        {"processes": stored["processes"][:1] * 2},
        {"processes": []},
        {"processes": [["0" * 32, 11]]},
        {"head": ledger.head},
        {"segments": ledger.to_json()["segments"]},
    ):
        with pytest.raises(DamagedFileError):
            PublishedLedger.from_json(ledger.plan, {**stored, **change})
    with pytest.raises(PrivacyError, match="another privacy plan"):
        PublishedLedger.from_json(tiny.plan(steps=31), stored)


def test_a_statement_that_lacks_a_word_is_damaged() -> None:
    statement = stated(spent(30))
    checked(statement)
    for name in statement.keys() - {"private", "plan", "ledger"}:
        with pytest.raises(DamagedFileError):
            checked({key: value for key, value in statement.items() if key != name})
