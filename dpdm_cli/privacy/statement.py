"""The privacy claim in full, as it travels with a checkpoint and with every image drawn from it."""

from __future__ import annotations

from typing import Any

from dpdm_cli.errors import PrivacyError
from dpdm_cli.privacy.accounting import claim, round_up
from dpdm_cli.privacy.ledger import Ledger

NOT_PRIVATE = "NOT PRIVATE: trained without clipping and without noise. Nothing is claimed about the training images."

NOT_COVERED = (
    "further releases from the same images, other runs and hyper-parameter tuning on them included",
    "evaluations on the private images: FID, accuracies, training curves, anything kept under private/",
    "people with several images, or images that show several people: the unit is one image",
    "timing, memory use and other side channels of the machine that trained",
    "floating-point attacks beyond rounding the release to a public grid",
)


def private_statement(ledger: Ledger) -> dict[str, Any]:
    """The claim for what the ledger holds.

    Args:
        ledger: the releases made.

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
    epsilon, delta = round_up(result.epsilon, 4), plan.delta
    return {
        "private": True,
        "epsilon": epsilon,
        "delta": delta,
        "accountant": result.accountant,
        "epsilon_by": dict(result.epsilon_by),
        "reason": result.reason,
        "adjacency": plan.adjacency,
        "unit": plan.unit,
        "sampling": "Poisson",
        "dataset_size": plan.dataset_size,
        "sample_rate": plan.sample_rate,
        "expected_batch_size": plan.expected_batch_size,
        "steps": plan.steps,
        "steps_taken": ledger.steps,
        "sigma": plan.sigma,
        "clip_norm": plan.clip_norm,
        "noise_multiplicity": plan.noise_multiplicity,
        "divisor": plan.divisor,
        "ledger": ledger.to_dict(),
        "not_covered": list(NOT_COVERED),
        "text": (
            f"({epsilon}, {delta})-differentially private with respect to adding or removing one image "
            f"among {plan.dataset_size:,} (a public number). One run of DP-SGD: {plan.steps:,} steps, Poisson "
            f"sampling at rate {plan.sample_rate!r}, one gradient an image (mean over {plan.noise_multiplicity} noisy "
            f"copies) clipped to norm {plan.clip_norm:g}, Gaussian noise of {plan.sigma!r} times that norm; "
            f"epsilon by {result.accountant.upper()}, an upper bound."
        ),
    }


def non_private_statement(steps: int) -> dict[str, Any]:
    """The statement of a run without privacy: it claims nothing and says so first."""
    return {
        "private": False,
        "text": NOT_PRIVATE,
        "steps_taken": steps,
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
