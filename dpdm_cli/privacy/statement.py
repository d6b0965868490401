"""The privacy claim in full, as it travels with a checkpoint and with every image drawn from it.

There is no free text in it: all of it follows from the plan, the ledger and the few facts that are named here, each of
which comes from a closed list or has a checked form. So a statement can be made anew and compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from dpdm_cli.errors import DamagedFileError, PrivacyError
from dpdm_cli.privacy.accounting.claims import Claim, claim, round_up
from dpdm_cli.privacy.ledger import Ledger, PublishedLedger
from dpdm_cli.privacy.plan import ACCOUNTANTS, PrivacyPlan, check_keys
from dpdm_cli.privacy.public_inputs import PublicInputs

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

PROCEDURAL_STARTS = frozenset({"4af557d7b10dafbe41138a7d10a38f5358ebfb4aef7a3218a11bb4c3049c640a"})
"""SHA-256 of the networks that have shipped with this package, trained on images drawn by a program."""

NOT_PRIVATE = "NOT PRIVATE: trained without clipping and without noise. Nothing is claimed about the training images."

NOT_COVERED = (
    "further releases from the same images, other runs and hyper-parameter tuning on them included",
    "evaluations on the private images: FID, accuracies, training curves, anything kept under private/",
    "people with several images, or images that show several people: the unit is one image",
    "timing, memory use and other side channels of the machine that trained",
    "floating-point attacks beyond rounding the release to a public grid",
    "what is taken as known to everybody: the number of images, class names, image size and colours",
)


def private_statement(
    ledger: Ledger | PublishedLedger, public: PublicInputs, init_from: str | None = None
) -> dict[str, Any]:
    """The claim for what the ledger holds.

    Args:
        ledger: the releases made.
        public: who says that N, class names, image size and colours are public.
        init_from: SHA-256 of the model the weights started from: one of `PROCEDURAL_STARTS`, or declared public.

    Returns:
        A JSON object; `epsilon` and `delta` are what is claimed, `text` says it in words. Epsilon is that of the
        planned steps: a run that stops early makes no smaller claim.

    Raises:
        PrivacyError: no step was taken, so there is nothing to claim.
    """
    if not ledger.steps:
        raise PrivacyError("no step was taken, so there is nothing to claim")
    shown = ledger.published() if isinstance(ledger, Ledger) else ledger
    plan = ledger.plan
    result = claim(plan)
    epsilon = round_up(result.epsilon, 4)
    return {
        "private": True,
        "epsilon": epsilon,
        "delta": plan.delta,
        "accountant": result.accountant,
        "epsilon_by": {name: round_up(bound, 4) for name, bound in result.epsilon_by.items()},
        "reason": _reason(plan, result),
        "adjacency": plan.adjacency,
        "unit": plan.unit,
        "sampling": "Poisson",
        "dataset_size": plan.dataset_size,
        "public_inputs": public.to_dict(),
        "sample_rate": plan.sample_rate,
        "expected_batch_size": plan.expected_batch_size,
        "steps": plan.steps,
        "steps_taken": ledger.steps,
        "sigma": plan.sigma,
        "clip_norm": plan.clip_norm,
        "noise_multiplicity": plan.noise_multiplicity,
        "divisor": plan.divisor,
        "warm_start": plan.warm_start,
        "warm_sigma": plan.warm_sigma,
        "init_from": init_from,
        "plan": plan.to_dict(),
        "ledger": shown.to_dict(),
        "not_covered": list(NOT_COVERED),
        "text": _text(plan, epsilon, result.accountant, public, init_from),
    }


def check_statement(statement: dict[str, Any]) -> PublishedLedger:
    """The ledger behind a statement, when all that the statement says follows from it.

    Raises:
        PrivacyError: it claims nothing, claims less epsilon than its plan costs, or another claim than that of its
            plan and ledger.
        DamagedFileError: its plan, ledger or public inputs are not what was written, a key is missing or foreign, or
            the value of one is of no kind that stands there.
    """
    true = rebuilt_statement(statement)
    check_keys(statement, set(true), "the statement")
    ledger = PublishedLedger.from_dict(PrivacyPlan.from_dict(true["plan"]), true["ledger"])
    expected = {**true, **_claimed(statement, true)}
    expected["text"] = _text(
        ledger.plan,
        expected["epsilon"],
        expected["accountant"],
        PublicInputs.from_dict(expected["public_inputs"]),
        expected["init_from"],
    )
    for name, value in sorted(expected.items()):
        found = statement[name]
        if not same_json(found, value):
            error = PrivacyError if type(found) is type(value) else DamagedFileError
            raise error(
                f"the statement's {name} is {_short(found)}, but its plan and ledger say {_short(value)}",
                "do not rely on it",
            )
    return ledger


def rebuilt_statement(statement: dict[str, Any]) -> dict[str, Any]:
    """The statement that follows from the plan, the ledger and the facts that a statement holds.

    Nothing else of it comes along; whether it said the same is the business of `check_statement`.

    Raises:
        PrivacyError: it claims nothing.
        DamagedFileError: its plan, its ledger or one of the facts is not what was written.
    """
    if not statement.get("private"):
        raise PrivacyError(
            f"no privacy is claimed: {NOT_PRIVATE}",
            "publish it only if its training images may be published",
        )
    if "public_inputs" not in statement:
        raise DamagedFileError(
            "the statement is of an earlier release of dpdm: it does not say what is taken as public",
            "train the model anew",
        )
    stored = statement.get("ledger")
    if not isinstance(stored, dict):
        raise DamagedFileError("the statement holds no ledger")
    ledger = PublishedLedger.from_dict(PrivacyPlan.from_dict(statement.get("plan")), stored)
    source = statement.get("init_from")
    if source is not None and not (isinstance(source, str) and _SHA256.fullmatch(source)):
        raise DamagedFileError(f"the statement's init_from is {_short(source)}, no SHA-256")
    public = PublicInputs.from_dict(statement["public_inputs"])
    true = private_statement(ledger, public, source)
    # In the order in which a model's file holds it.
    return dict(json.loads(json.dumps(true, sort_keys=True)))


def _claimed(statement: dict[str, Any], true: dict[str, Any]) -> dict[str, Any]:
    """The figures of a claim, when the accountants can have given them.

    They need not be those of today: other releases of the accountants and of the libraries below them differ, in the
    last digits or in what they can compute. But none is below the truth, and none far from it.
    """
    epsilon, by = statement["epsilon"], statement["accountant"]
    bounds, reason = statement["epsilon_by"], statement["reason"]
    _check_number("epsilon", epsilon)
    if not epsilon >= true["epsilon"] * (1 - 1e-6):
        raise PrivacyError(
            f"the statement claims epsilon = {_short(epsilon)}, but its plan costs {true['epsilon']}",
            "do not rely on it",
        )
    _check_among("accountant", by, true["epsilon_by"])
    _check_among("reason", reason, REASONS)
    if not isinstance(bounds, dict) or not {"rdp", by} <= bounds.keys() <= set(ACCOUNTANTS):
        raise DamagedFileError(
            f"the statement's epsilon_by is {_short(bounds)}, not a bound by accountant"
        )
    lowest, highest = min(true["epsilon_by"].values()), max(true["epsilon_by"].values())
    for name, bound in bounds.items():
        _check_number(f"epsilon_by {name}", bound)
        if not (1 - _DRIFT) * lowest <= bound <= (1 + _DRIFT) * highest:
            raise DamagedFileError(
                f"the statement's epsilon_by {name} is {_short(bound)}, but its plan costs {lowest} to {highest}"
            )
    by_plan = true["plan"]["accountant"]
    if (reason == "") != (by == by_plan):
        raise DamagedFileError(
            f"the statement's reason is {reason!r}, but it claims by {by} where its plan names {by_plan}"
        )
    rounded = {name: round_up(bound, 4) for name, bound in bounds.items()}
    if epsilon != rounded[by]:
        raise DamagedFileError(
            f"the statement's epsilon is {_short(epsilon)}, but its epsilon_by says {rounded[by]} by {by}"
        )
    return {
        "epsilon": rounded[by],
        "accountant": by,
        "epsilon_by": rounded,
        "reason": reason,
    }


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


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DamagedFileError(f"the statement's {name} is {_short(value)}, not a number")


def _check_among(name: str, value: object, known: Iterable[str]) -> None:
    if not isinstance(value, str) or value not in known:
        raise DamagedFileError(
            f"the statement's {name} is {_short(value)}, none of: {', '.join(known) or 'nothing'}"
        )


def same_json(found: object, expected: object) -> bool:
    """Whether both are the same JSON: true is not 1, and 1 is not 1.0."""
    return json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)


def _text(
    plan: PrivacyPlan,
    epsilon: float,
    accountant: str,
    public: PublicInputs,
    init_from: str | None,
) -> str:
    source = ""
    if init_from in PROCEDURAL_STARTS:
        source = (
            f" The weights started from a network of this package that was trained on images drawn by a program; no "
            f"data (SHA-256 {init_from})."
        )
    elif init_from is not None:
        source = (
            f" The weights started from a model trained without privacy on images that whoever ran this declares to be "
            f"public (SHA-256 {init_from}); nothing is claimed about those."
        )
    return (
        f"({epsilon}, {plan.delta})-differentially private with respect to adding or removing one image "
        f"among {plan.dataset_size:,} (a public number). {public.text} {_warm_text(plan)}"
        f"One run of DP-SGD: {plan.steps:,} steps, Poisson "
        f"sampling at rate {plan.sample_rate!r}, one gradient an image (mean over {plan.noise_multiplicity} noisy "
        f"copies) clipped to norm {plan.clip_norm:g}, Gaussian noise of {plan.sigma!r} times that norm; "
        f"epsilon by {accountant.upper()}, an upper bound.{source}"
    )


def _warm_text(plan: PrivacyPlan) -> str:
    if not plan.warm_releases:
        return ""
    sums = "1 sum" if plan.warm_releases == 1 else f"{plan.warm_releases} sums"
    return (
        f"A warm start by {plan.warm_start}: {sums} over all images, one vector of norm at most 1 an image, Gaussian "
        f"noise of {plan.warm_sigma!r}. "
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:79] + "…"


def non_private_statement(steps: int, trained_on: Iterable[str] = ()) -> dict[str, Any]:
    """The statement of a run without privacy: it claims nothing and says so first.

    Args:
        steps: taken.
        trained_on: the named sets behind the weights, those of the model they started from included; "custom" for
            images of the user's own. No private run on one of these sets may start from them.
    """
    return {
        "private": False,
        "text": NOT_PRIVATE,
        "steps_taken": steps,
        "trained_on": sorted(set(trained_on)),
        "epsilon": None,
        "delta": None,
    }


def headline(statement: dict[str, Any]) -> str:
    """One short line: the claim, or that there is none."""
    if not statement.get("private"):
        return "NOT PRIVATE"
    epsilon = statement["epsilon"]
    digits = 2 if epsilon >= 0.1 else 4
    shown = f"{round_up(epsilon, digits):.{digits}f}".rstrip("0").rstrip(".")
    return f"epsilon {shown}, delta {statement['delta']}, per image"
