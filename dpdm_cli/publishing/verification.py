"""What was found in order when files were verified: values, and their JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dpdm_cli.privacy.accounting.claims import Claim
from dpdm_cli.privacy.accounting.risk import Risk, risk_of
from dpdm_cli.privacy.ledger import PublishedLedger
from dpdm_cli.privacy.statement import Statement
from dpdm_cli.results import Result
from dpdm_cli.stored import Json


@dataclass(frozen=True)
class Artefact:
    """One thing that was verified.

    Attributes:
        path: where it lies.
        kind: run, model or samples.
        statement: what it claims.
        claim: what its plan costs, by every accountant.
        taken: what the steps really taken cost.
        checked: what was found to be in order, in words.
    """

    path: Path
    kind: str
    statement: Statement
    claim: Claim
    taken: Claim
    checked: tuple[str, ...]

    @property
    def risk(self) -> Risk:
        """What its plan allows an attacker, computed anew."""
        return risk_of(self.ledger.plan)

    @property
    def ledger(self) -> PublishedLedger:
        """The releases behind it, as far as they are published."""
        return self.statement.ledger


@dataclass(frozen=True)
class Restated:
    """The claim under another question: the question, epsilon, and where the answer comes from."""

    question: str
    epsilon: float
    source: str


@dataclass(frozen=True, repr=False)
class Verification(Result):
    """What `verify` found in order.

    Attributes:
        artefacts: in the order given.
        together: the claim for all of them published, if from the same images; None for one artefact.
        relations: which artefacts share releases, in words.
        restated: answers to what else was asked.
    """

    artefacts: tuple[Artefact, ...]
    together: Claim | None = None
    relations: tuple[str, ...] = ()
    restated: tuple[Restated, ...] = field(default=())

    @property
    def summary(self) -> str:
        """One line."""
        found = [f"{f.path} ({f.kind}) verified, {f.statement.headline}" for f in self.artefacts]
        if self.together is not None:
            found.append(f"together epsilon {self.together.epsilon_text}")
        return "; ".join(found)

    def to_dict(self) -> Json:
        """A JSON object."""
        return {
            "artefacts": [
                {
                    "path": str(found.path),
                    "kind": found.kind,
                    "epsilon": found.statement.epsilon,
                    "delta": found.statement.delta,
                    "epsilon_by": dict(found.claim.epsilon_by),
                    "epsilon_of_steps_taken": found.taken.epsilon,
                    "steps": found.ledger.plan.steps,
                    "steps_taken": found.ledger.steps,
                    "unit": found.ledger.plan.unit,
                    "risk": found.risk.to_json(),
                    **found.statement.about.to_json(),
                    "text": found.statement.text,
                    "checked": list(found.checked),
                }
                for found in self.artefacts
            ],
            "together": None if self.together is None else self.together.to_dict(),
            "relations": list(self.relations),
            "restated": [vars(answer) for answer in self.restated],
        }
