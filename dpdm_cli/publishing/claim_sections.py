"""The parts of a card that say what is claimed, what it means, and what stands beside it; in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict

from dpdm_cli.privacy.accounting.risk import Risk
from dpdm_cli.privacy.circumstances import NOT_RECORDED, NOT_STATED
from dpdm_cli.privacy.statement import MECHANISM, Statement

ROUGH = 0.01
"""Regret from which mu alone says less than it should (Gomez et al., arXiv 2503.10945)."""


def claim_sections(statement: Statement) -> list[str]:
    """Privacy, attack risk, and circumstances, each with a heading."""
    claimed = claimed_rows(statement)
    claimed["head of the ledger"] = f"`{claimed['head of the ledger']}`"
    said = {
        name: text if text == NOT_STATED else literal(text)
        for name, text in said_rows(statement).items()
    }
    return [
        "## Privacy",
        "",
        *_table(claimed),
        "",
        "`dpdm verify` recomputes all of this from the files.",
        "",
        "## What an attacker can find out",
        "",
        "At most, for whoever knows every other record, sees every step and asks whether one was there:",
        "",
        *_table(risk_words(statement.risk)),
        "",
        "The accuracy is that of a guess when the record was there in half of all cases. TPR at a given FPR is how "
        "often a record that was there is found out. Epsilon without amplification by sampling holds against whoever "
        "knows which steps the record was drawn for.",
        "",
        "## How it was made",
        "",
        *_table(made_rows(statement)),
        "",
        "Said by whoever publishes it, and checked by nobody:",
        "",
        *_table(said),
        "",
    ]


def claimed_rows(statement: Statement) -> dict[str, object]:
    """What is claimed, and for which mechanism, by what it is."""
    plan = statement.plan
    by = ", ".join(f"{k.upper()} {v}" for k, v in sorted(statement.epsilon_by.items()))
    return {
        "mechanism": MECHANISM,
        "epsilon": statement.epsilon,
        "delta": plan.delta,
        "neighbouring data sets": plan.adjacency,
        "what is protected": plan.unit,
        "N, public": plan.dataset_size,
        "sampling": "Poisson",
        "q, sampling rate": plan.sample_rate,
        "steps planned": plan.steps,
        "steps taken": statement.ledger.steps,
        "noise multiplier sigma": plan.sigma,
        "clip norm C": plan.clip_norm,
        f"noisy copies of {plan.unit} K": plan.noise_multiplicity,
        "divisor": plan.divisor,
        "warm start": plan.warm_start,
        "noise on each sum of the warm start": plan.warm_sigma,
        "SHA-256 of the network it started from": statement.init_from,
        "taken as known to everybody": statement.public_inputs.words_for(plan.record),
        "epsilon by accountant": by,
        "budget by part": budget_words(statement.risk),
        "head of the ledger": statement.ledger.head,
    }


def made_rows(statement: Statement) -> dict[str, str]:
    """How a run was made and chosen."""
    about = statement.about
    return {
        "selection": about.selection_text,
        "trust": about.trust_text,
        "trained with dpdm": ", ".join(about.versions) or NOT_RECORDED,
        "begun on": about.begun or NOT_RECORDED,
        "checks of the private step before training": about.checks or NOT_RECORDED,
    }


def said_rows(statement: Statement) -> dict[str, str]:
    """What the publisher says, in words that somebody chose: to be escaped where they are shown."""
    return {name: text or NOT_STATED for name, text in asdict(statement.about.said).items()}


def risk_words(risk: Risk) -> dict[str, str]:
    """Figures of a risk by what they are, for people."""
    words = {"accuracy at even odds": f"{100 * risk.attack.guess:.2f} %"}
    for rate, bound in risk.attack.true_positive_rates:
        words[f"TPR at {100 * rate:g} % FPR"] = f"{100 * bound:.2f} %"
    fit, epsilon = risk.gaussian_dp, risk.epsilon_without_amplification
    gaussian = "not computed" if fit is None else f"{fit.mu:.4f}, regret {fit.regret:.4f}"
    if fit is not None and fit.regret >= ROUGH:
        gaussian += ": a rough fit"
    words["mu of Gaussian DP"] = gaussian
    words["epsilon without amplification"] = "above 1000" if epsilon is None else f"{epsilon:.4f}"
    return words


def budget_words(risk: Risk) -> str:
    """Shares by part: `moments 50.02 %, steps 49.98 %`."""
    return ", ".join(f"{name} {100 * share:.4g} %" for name, share in risk.budget.items())


def literal(text: str) -> str:
    """What somebody chose to write, in a code span of a table: no link, no HTML and no cell of its own."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")


def _table(rows: Mapping[str, object]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {words} | {value} |" for words, value in rows.items())]
