"""The privacy claim in full, as it travels with a checkpoint and with every image drawn from it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from dpdm_cli.errors import DamagedFileError, PrivacyError
from dpdm_cli.privacy.accounting import claim, round_up
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.public_inputs import PublicInputs

_SHA256 = re.compile(r"[0-9a-f]{64}")

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
    ledger: Ledger, public: PublicInputs, init_from: str | None = None
) -> dict[str, Any]:
    """The claim for what the ledger holds.

    Args:
        ledger: the releases made.
        public: who says that N, class names, image size and colours are public.
        init_from: SHA-256 of the model the weights started from, declared public.

    Returns:
        A JSON object; `epsilon` and `delta` are what is claimed, `text` says it in words. Epsilon is that of the
        planned steps: a run that stops early makes no smaller claim.

    Raises:
        PrivacyError: no step was taken, so there is nothing to claim.
    """
    if not ledger.steps:
        raise PrivacyError("no step was taken, so there is nothing to claim")
    plan = ledger.plan
    result = claim(plan)
    epsilon = round_up(result.epsilon, 4)
    return {
        "private": True,
        "epsilon": epsilon,
        "delta": plan.delta,
        "accountant": result.accountant,
        "epsilon_by": dict(result.epsilon_by),
        "reason": result.reason,
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
        "ledger": ledger.to_dict(),
        "not_covered": list(NOT_COVERED),
        "text": _text(plan, epsilon, result.accountant, public, init_from),
    }


def check_statement(statement: dict[str, Any]) -> Ledger:
    """The ledger behind a statement, when all that the statement says follows from it.

    Raises:
        PrivacyError: it claims nothing, claims less epsilon than its plan costs, or says something else than its plan
            and ledger do.
        DamagedFileError: its plan, ledger or public inputs are not what was written.
    """
    if not statement.get("private"):
        raise PrivacyError(
            f"no privacy is claimed: {statement.get('text', 'there is no statement')}",
            "publish it only if its training images may be published",
        )
    stored = statement.get("ledger")
    if not isinstance(stored, dict):
        raise DamagedFileError("the statement holds no ledger")
    ledger = Ledger.from_dict(PrivacyPlan.from_dict(statement.get("plan")), stored)
    source = statement.get("init_from")
    if source is not None and (not isinstance(source, str) or not _SHA256.fullmatch(source)):
        raise DamagedFileError(f"the statement's init_from is {_short(source)}, no SHA-256")
    public = PublicInputs.from_dict(statement.get("public_inputs"))
    true = private_statement(ledger, public, source)
    epsilon = statement.get("epsilon")
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float):
        raise DamagedFileError(f"the statement's epsilon is {epsilon!r}, not a number")
    # Another release of the numerical libraries may differ in the last digits.
    if not epsilon >= true["epsilon"] * (1 - 1e-6):
        raise PrivacyError(
            f"the statement claims epsilon = {epsilon}, but its plan costs {true['epsilon']}",
            "do not rely on it",
        )
    says = _text(ledger.plan, float(epsilon), str(statement.get("accountant")), public, source)
    expected = {**true, "epsilon": epsilon, "text": says}
    if missing := sorted(expected.keys() - statement.keys()):
        raise DamagedFileError(f"the statement lacks {', '.join(missing)}")
    for name in expected.keys() - {"accountant", "epsilon_by", "reason"}:
        if statement.get(name) != expected[name]:
            raise PrivacyError(
                f"the statement's {name} is {_short(statement.get(name))}, but its plan and ledger "
                f"say {_short(expected[name])}",
                "do not rely on it",
            )
    return ledger


def _text(
    plan: PrivacyPlan,
    epsilon: float,
    accountant: str,
    public: PublicInputs,
    init_from: str | None,
) -> str:
    source = ""
    if init_from is not None:
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
