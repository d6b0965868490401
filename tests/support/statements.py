"""Statements as they are stored, what a reader makes of them, and the state of a run."""

from __future__ import annotations

import dataclasses
from typing import Any

from dpdm_cli.privacy.circumstances import NOTHING_KNOWN
from dpdm_cli.privacy.ledger import Ledger, PublishedLedger
from dpdm_cli.privacy.public_inputs import PUBLISHED
from dpdm_cli.privacy.statement import Statement, private_statement, read_statement
from dpdm_cli.training.config.public_facts import Stated
from dpdm_cli.training.config.public_start import PublicStart
from dpdm_cli.training.config.settings import TrainSettings
from dpdm_cli.training.folder.run_state import RunState


def stated(ledger: Ledger) -> dict[str, Any]:
    """The claim as it is stored."""
    return private_statement(ledger, PUBLISHED).to_json()


def understood(values: dict[str, Any]) -> Statement:
    statement = read_statement(values)
    assert isinstance(statement, Statement)
    return statement


def checked(values: dict[str, Any]) -> PublishedLedger:
    """The ledger behind what is stored, when the claim holds."""
    statement = understood(values)
    statement.check()
    return statement.ledger


def rebuilt(values: dict[str, Any]) -> dict[str, Any]:
    return understood(values).renewed().to_json()


def lowered(values: dict[str, Any]) -> dict[str, Any]:
    """A tenth less is claimed, in every place that says so."""
    statement = understood(values)
    less = {name: round(0.9 * bound, 4) for name, bound in statement.epsilon_by.items()}
    return dataclasses.replace(statement, epsilon_by=less).to_json()


def state_of(ledger: Ledger | None) -> RunState:
    """Of a run on digits after the releases of a ledger; of one that is not private without."""
    return RunState(
        data="digits",
        settings=TrainSettings(),
        dataset_size=64,
        public_inputs=None if ledger is None else PUBLISHED,
        stated=Stated(classes=("a", "b")),
        init_from=PublicStart("0" * 64, ("custom",), {}),
        salt="salt",
        fingerprint="f" * 64,
        done=4 if ledger is None else ledger.steps,
        ledger=ledger,
        about=NOTHING_KNOWN.went_on("0.1.0", "cpu", "2026-01-31"),
    )
