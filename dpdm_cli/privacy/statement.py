"""The privacy claim in full, as it travels with a checkpoint and with every image drawn from it.

All of it follows from the plan, the ledger and the few facts that are named here, each of which comes from a closed
list or has a checked form. So a statement can be made anew and compared. The only free text is what whoever publishes
it says, in four short lines of their own (`circumstances.Said`), which no release carries on.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from dpdm_cli.errors import DamagedFileError, PrivacyError
from dpdm_cli.privacy.accounting.claims import Claim, claim, round_up
from dpdm_cli.privacy.accounting.risk import Risk, risk_of
from dpdm_cli.privacy.circumstances import NOTHING_KNOWN, NOTHING_SAID, Circumstances
from dpdm_cli.privacy.ledger import Ledger, PublishedLedger
from dpdm_cli.privacy.plan import ACCOUNTANTS, PrivacyPlan
from dpdm_cli.privacy.public_inputs import PublicInputs
from dpdm_cli.privacy.units import WORDS
from dpdm_cli.stored import Json, check_keys, same_json, shown, understood, value_of

SCHEMA = "urn:dpdm:statement:2"
"""The form of a statement; `publishing/schemas` holds its JSON Schema."""

MECHANISM = "DP-SGD: Poisson-subsampled Gaussian mechanism on clipped gradients"

_SHA256 = re.compile(r"[0-9a-f]{64}")

_DRIFT = 0.01
"""By how much, relative, another release of the accountants may answer otherwise than this one."""

REASONS = {
    "": "the accountant that the plan names",
    "not computable": "that one has no trustworthy answer for this plan",
    "above RDP": "that one answers more than RDP does",
    "in disagreement": "that one and another differ by more than sound accountants can",
    "too coarse": "that one's error is a large share of what it answers, and another answers less",
}
"""Why a claim is not by the accountant that its plan names."""

PROCEDURAL_STARTS = (
    "4af557d7b10dafbe41138a7d10a38f5358ebfb4aef7a3218a11bb4c3049c640a",
    "630d0d07de7ff197d2ca32257828d6c8acbba7b63110386f694b9ccaff0ab02c",
)
"""SHA-256 of the networks that have shipped with this package, trained on images drawn by a program."""

NOT_PRIVATE = "NOT PRIVATE: trained without clipping and without noise. Nothing is claimed about the training images."

NOT_COVERED = (
    "further releases from the same images, other runs and hyper-parameter tuning on them included",
    "evaluations on the private images: FID, accuracies, training curves, anything kept under private/",
    "{unit}",
    "timing, memory use and other side channels of the machine that trained",
    "floating-point attacks beyond rounding the release to a public grid",
    "what is taken as known to everybody: the number of {records}, class names, image size and colours",
)
"""With places for what no claim of its unit covers, and for the word for its records; see `not_covered`."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """The claim for a model: what it follows from, each figure once.

    Attributes:
        ledger: the releases behind it, with their plan.
        public_inputs: who says that N, class names, image size and colours are public.
        init_from: SHA-256 of the model the weights started from: one of `PROCEDURAL_STARTS`, or declared public.
        accountant: which claims.
        epsilon_by: the bound of every accountant that has one, rounded up at four decimals; rdp is among them.
        reason: one of `REASONS`.
        risk: what the plan allows an attacker, and how its budget is divided.
        about: how the run was made and chosen, and what is said of it.
    """

    ledger: PublishedLedger
    public_inputs: PublicInputs
    init_from: str | None
    accountant: str
    epsilon_by: Mapping[str, float]
    reason: str
    risk: Risk
    about: Circumstances = NOTHING_KNOWN

    private: ClassVar = True

    @property
    def not_covered(self) -> tuple[str, ...]:
        """What nothing is claimed about."""
        return not_covered(self.plan.record)

    @property
    def plan(self) -> PrivacyPlan:
        """What was to be released."""
        return self.ledger.plan

    @property
    def epsilon(self) -> float:
        """What is claimed: that of the planned steps. A run that stops early makes no smaller claim."""
        return self.epsilon_by[self.accountant]

    @property
    def delta(self) -> float:
        """What is claimed with it."""
        return self.plan.delta

    @property
    def headline(self) -> str:
        """One short line."""
        digits = 2 if self.epsilon >= 0.1 else 4
        shown = f"{round_up(self.epsilon, digits):.{digits}f}".rstrip("0").rstrip(".")
        return f"epsilon {shown}, delta {self.delta}, per {self.plan.record}"

    @property
    def text(self) -> str:
        """The claim in words."""
        plan = self.plan
        words = WORDS[plan.record]
        return (
            f"({self.epsilon}, {plan.delta})-differentially private with respect to adding or removing {words.whole} "
            f"among {plan.dataset_size:,} (a public number). {self.public_inputs.text_for(plan.record)} "
            f"{_warm_text(plan)}One run of DP-SGD: {plan.steps:,} steps, Poisson sampling{words.of} at rate "
            f"{plan.sample_rate!r}, one gradient {words.each} (mean over {plan.noise_multiplicity} noisy "
            f"copies{words.copy}) clipped to norm {plan.clip_norm:g}, Gaussian noise of {plan.sigma!r} times that "
            f"norm; epsilon by {self.accountant.upper()}, an upper bound.{_source_text(self.init_from)}"
        )

    def to_json(self) -> Json:
        """All of it in full, with keys in order at every level, as a model's file holds it."""
        plan = self.plan
        values = {
            "schema": SCHEMA,
            "private": True,
            "mechanism": MECHANISM,
            "adjacency": plan.adjacency,
            "unit": plan.unit,
            "epsilon": self.epsilon,
            "delta": plan.delta,
            "accountant": self.accountant,
            "epsilon_by": dict(self.epsilon_by),
            "reason": self.reason,
            "risk": self.risk.to_json(),
            "public_inputs": self.public_inputs.to_dict(),
            "init_from": self.init_from,
            "plan": plan.to_dict(),
            "ledger": self.ledger.to_json(),
            "not_covered": list(self.not_covered),
            "text": self.text,
            **self.about.to_json(),
        }
        return dict(json.loads(json.dumps(values, sort_keys=True)))

    @classmethod
    def from_json(cls, values: Json) -> Statement:
        """What `to_json` described. Whether the accountants can have said so is the business of `check`.

        Raises:
            PrivacyError: it says otherwise than its plan, ledger and bounds do.
            DamagedFileError: a key is missing or foreign, or the value of one is of no kind that stands there.
        """
        plan = PrivacyPlan.from_dict(values.get("plan"))

        def read(name: str, understand: Callable[[Any], Any]) -> Any:
            return value_of(values, name, "the statement", understand)

        statement = cls(
            ledger=PublishedLedger.from_json(plan, values.get("ledger")),
            public_inputs=PublicInputs.from_dict(values.get("public_inputs")),
            init_from=read("init_from", _digest_or_none),
            accountant=read("accountant", lambda name: _among(ACCOUNTANTS, name)),
            epsilon_by=read("epsilon_by", _bounds),
            reason=read("reason", lambda reason: _among(REASONS, reason)),
            risk=Risk.from_json(values.get("risk")),
            about=Circumstances.from_json(values, "the statement"),
        )
        if statement.accountant not in statement.epsilon_by:
            raise DamagedFileError(
                f"the statement claims by {statement.accountant}, of which its epsilon_by has no bound"
            )
        if (statement.reason == "") != (statement.accountant == plan.accountant):
            raise DamagedFileError(
                f"the statement's reason is {statement.reason!r}, but it claims by {statement.accountant} where its "
                f"plan names {plan.accountant}"
            )
        true = statement.to_json()
        check_keys(values, true, "the statement")
        for name, value in true.items():
            found = values[name]
            if not same_json(found, value):
                error = PrivacyError if type(found) is type(value) else DamagedFileError
                raise error(
                    f"the statement's {name} is {shown(found)}, but its plan and ledger say {shown(value)}",
                    "do not rely on it",
                )
        return statement

    def check(self) -> None:
        """Whether the accountants can have given the figures, those of the risk too.

        They need not be those of today: other releases of the accountants and of the libraries below them differ, in
        the last digits or in what they can compute. But none is below the truth, and none far from it.

        Raises:
            PrivacyError: it claims less epsilon, or less risk, than its plan costs.
            DamagedFileError: no accountant says so.
        """
        true = self.renewed()
        if not self.epsilon >= true.epsilon * (1 - 1e-6):
            raise PrivacyError(
                f"the statement claims epsilon = {self.epsilon}, but its plan costs {true.epsilon}",
                "do not rely on it",
            )
        if self.accountant not in true.epsilon_by:
            raise DamagedFileError(
                f"the statement's accountant is {self.accountant}, which has no bound for its plan"
            )
        lowest, highest = min(true.epsilon_by.values()), max(true.epsilon_by.values())
        for name, bound in self.epsilon_by.items():
            if not (1 - _DRIFT) * lowest <= bound <= (1 + _DRIFT) * highest:
                raise DamagedFileError(
                    f"the statement's epsilon_by {name} is {bound}, but its plan costs {lowest} to {highest}"
                )
        self.risk.check(self.plan)

    def renewed(self) -> Statement:
        """What the accountants of today say of the same releases; without what others said of them in their words."""
        about = replace(self.about, said=NOTHING_SAID)
        return private_statement(self.ledger, self.public_inputs, self.init_from, about)


@dataclass(frozen=True, kw_only=True)
class NonPrivateStatement:
    """Of a run without privacy: it claims nothing and says so first.

    Attributes:
        steps_taken: of the run.
        trained_on: the named sets behind the weights, in order, those of the model they started from included; "custom"
            for images of the user's own. No private run on one of these sets may start from them.
    """

    steps_taken: int
    trained_on: tuple[str, ...]

    private: ClassVar = False
    epsilon: ClassVar = None
    delta: ClassVar = None
    headline: ClassVar = "NOT PRIVATE"
    text: ClassVar = NOT_PRIVATE

    def to_json(self) -> Json:
        """With keys in order, as a model's file holds it."""
        return {
            "delta": None,
            "epsilon": None,
            "private": False,
            "schema": SCHEMA,
            "steps_taken": self.steps_taken,
            "text": NOT_PRIVATE,
            "trained_on": list(self.trained_on),
        }

    @classmethod
    def from_json(cls, values: Json) -> NonPrivateStatement:
        """What `to_json` described. Raises DamagedFileError: it did not."""
        own = {name: values[name] for name in ("steps_taken", "trained_on") if name in values}
        statement = understood(cls, own, "the statement of a model that is not private")
        if not same_json(values, statement.to_json()):
            raise DamagedFileError(
                "the statement of a model that is not private says something else"
            )
        return statement


AnyStatement = Statement | NonPrivateStatement


def read_statement(values: object) -> AnyStatement:
    """What the `to_json` of either kind described.

    Raises:
        PrivacyError, DamagedFileError: see `Statement.from_json`.
    """
    if not isinstance(values, dict):
        raise DamagedFileError(f"the statement is {shown(values)!a}, no JSON object")
    if "schema" not in values and "text" in values:
        raise DamagedFileError(
            "the statement is of an earlier form, from before statements named theirs",
            "read it with the release of dpdm that wrote it; weights and claim are still those",
        )
    if values.get("schema") != SCHEMA:
        raise DamagedFileError(
            f"the statement's schema is {shown(values.get('schema'))!a}; this dpdm knows {SCHEMA}",
            "if a newer release of dpdm wrote it, read it with that one",
        )
    kind = Statement if values.get("private") else NonPrivateStatement
    return kind.from_json(values)


def private_statement(
    ledger: Ledger | PublishedLedger,
    public: PublicInputs,
    init_from: str | None = None,
    about: Circumstances = NOTHING_KNOWN,
) -> Statement:
    """The claim for what a ledger holds, by the accountants of today; arguments as `Statement` has them.

    Raises:
        PrivacyError: no step was taken, so there is nothing to claim.
    """
    if not ledger.steps:
        raise PrivacyError("no step was taken, so there is nothing to claim")
    result = claim(ledger.plan)
    return Statement(
        ledger=ledger.published() if isinstance(ledger, Ledger) else ledger,
        public_inputs=public,
        init_from=init_from,
        accountant=result.accountant,
        epsilon_by={name: round_up(bound, 4) for name, bound in result.epsilon_by.items()},
        reason=_reason(ledger.plan, result),
        risk=risk_of(ledger.plan),
        about=about,
    )


def non_private_statement(steps: int, trained_on: Iterable[str] = ()) -> NonPrivateStatement:
    """The statement of a run without privacy that took so many steps, see `NonPrivateStatement`."""
    return NonPrivateStatement(steps_taken=steps, trained_on=tuple(sorted(set(trained_on))))


def _reason(plan: PrivacyPlan, result: Claim) -> str:
    """Which of `REASONS` a claim has."""
    if result.accountant == plan.accountant:
        return ""
    asked = result.epsilon_by.get(plan.accountant)
    if asked is None:
        return "not computable"
    if asked > result.epsilon_by["rdp"]:
        return "above RDP"
    return "in disagreement" if "disagree" in result.reason else "too coarse"


def _digest_or_none(value: object) -> str | None:
    if value is None or (isinstance(value, str) and _SHA256.fullmatch(value)):
        return value
    raise ValueError("no SHA-256")


def _among(known: Collection[str], value: object) -> str:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"none of: {', '.join(known)}")
    return value


def _bounds(values: Mapping[str, object]) -> dict[str, float]:
    """Bounds by accountant, as `private_statement` rounds them."""
    if not {"rdp"} <= values.keys() <= set(ACCOUNTANTS):
        raise ValueError("not a bound by accountant")
    found = {}
    for name, bound in values.items():
        if type(bound) is not float or not 0 <= bound < math.inf or bound != round_up(bound, 4):
            raise ValueError("not a bound")
        found[name] = bound
    return found


def _source_text(init_from: str | None) -> str:
    if init_from is None:
        return ""
    if init_from in PROCEDURAL_STARTS:
        return (
            f" The weights started from a network of this package that was trained on images drawn by a program; no "
            f"data (SHA-256 {init_from})."
        )
    return (
        f" The weights started from a model trained without privacy on images that whoever ran this declares to be "
        f"public (SHA-256 {init_from}); nothing is claimed about those."
    )


def not_covered(record: str) -> tuple[str, ...]:
    """What no claim covers whose records are images, or persons."""
    return tuple(
        line.format(unit=WORDS[record].not_covered, records=f"{record}s") for line in NOT_COVERED
    )


def _warm_text(plan: PrivacyPlan) -> str:
    if not plan.warm_releases:
        return ""
    sums = "1 sum" if plan.warm_releases == 1 else f"{plan.warm_releases} sums"
    words = WORDS[plan.record]
    return (
        f"A warm start by {plan.warm_start}: {sums} over all images, one vector of norm at most 1 "
        f"{words.each}{words.vector}, Gaussian noise of {plan.warm_sigma!r}. "
    )
