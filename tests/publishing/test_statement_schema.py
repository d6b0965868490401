"""Statements as they are written fit the JSON Schema that the package ships, and what does not is none of ours."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support import tiny

from dpdm_cli.checkpoint import load_model
from dpdm_cli.privacy.circumstances import NOTHING_KNOWN, Said
from dpdm_cli.privacy.public_inputs import PUBLISHED
from dpdm_cli.privacy.statement import SCHEMA, non_private_statement, private_statement

PRETRAINED = Path(__file__).parents[2] / "examples" / "pretrained"
TEXT = (resources.files("dpdm_cli.publishing") / "schemas" / "statement-2.json").read_text()
VALIDATOR = Draft202012Validator(json.loads(TEXT))


def statements() -> Iterator[dict[str, Any]]:
    """Of the models of the repository, of runs that note all of themselves, of several plans, and of no privacy."""
    for folder in sorted(PRETRAINED.iterdir()):
        yield json.loads((folder / "statement.json").read_text())
    said = Said(purpose="a | b", source="a ward", contact="a@b.org", license="CC0-1.0")
    about = replace(
        NOTHING_KNOWN.went_on("0.1.0", "cpu", "2026-01-31"),
        runs=3,
        chosen_by="samples",
        seen_by="holder",
        said=said,
    )
    for changes in (
        {},
        {"warm_start": "means", "warm_sigma": 9.0},
        {"sigma": 0.2},
        {"sigma": 0.03},
        {"accountant": "rdp"},
    ):
        ledger = tiny.ledger(tiny.plan(steps=3, **changes), 0)
        while ledger.releases < ledger.plan.releases:
            ledger.record(warm=not ledger.is_warm)
        public = replace(PUBLISHED, classes="none", dataset_size="declared")
        yield private_statement(ledger, public, "0" * 64, about).to_json()
    yield non_private_statement(12, ["mnist"]).to_json()


STATEMENTS = list(statements())


def test_the_schema_is_one_and_names_the_form() -> None:
    Draft202012Validator.check_schema(json.loads(TEXT))
    assert json.loads(TEXT)["$id"] == SCHEMA


@pytest.mark.parametrize("statement", STATEMENTS, ids=range(len(STATEMENTS)))
def test_real_statements_fit(statement: dict[str, Any]) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(statement)] == []


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for name, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, name)
        if isinstance(part, dict | list):
            yield from places(part, (*path, name))


@pytest.mark.parametrize("statement", [STATEMENTS[0], STATEMENTS[3], STATEMENTS[-1]])
def test_no_value_may_be_of_another_kind_and_no_key_beside(statement: dict[str, Any]) -> None:
    for path in places(statement):
        changed = copy.deepcopy(statement)
        place = changed
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = {"image": 17}
        assert not VALIDATOR.is_valid(changed), path
        if isinstance(place, dict):
            del place[path[-1]]
            assert not VALIDATOR.is_valid(changed) or path[:-1] in {
                ("epsilon_by",),
                ("risk", "budget"),
            }, path
            place["more"] = 1
            assert not VALIDATOR.is_valid(changed), path


def test_a_model_of_the_repository_says_what_was_not_recorded() -> None:
    for folder in PRETRAINED.iterdir():
        statement = load_model(folder).statement.to_json()
        assert statement["date"] == statement["checks_before_training"] == "not recorded"
        assert statement["selection"] == {"runs": "not stated", "chosen_by": "not stated"}
