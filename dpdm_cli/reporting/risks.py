"""Risks and budgets of several plans, for JSON and for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dpdm_cli.privacy.accounting.attack_risk import AttackRisk
from dpdm_cli.reporting import plots
from dpdm_cli.reporting.budget import BudgetPart, budget_of
from dpdm_cli.stored import Json
from dpdm_cli.training.calibration import Calibration


def risk_json(risk: AttackRisk) -> Json:
    """A risk as a JSON object: the guess, and true positive rates by false positive rate."""
    rates = {f"{rate:g}": bound for rate, bound in risk.true_positive_rates}
    return {"guess": risk.guess, "true_positive_rates": rates}


def risk_panel(risks: Sequence[AttackRisk]) -> plots.Panel:
    """What plans let an attacker find out, in percent."""
    rates = [rate for rate, _ in risks[0].true_positive_rates]
    found = [
        plots.Curve(
            f"found out at {100 * rate:g} % false alarms",
            tuple(100 * dict(risk.true_positive_rates)[rate] for risk in risks),
        )
        for rate in rates
    ]
    guess = plots.Curve("guess at even odds", tuple(100 * risk.guess for risk in risks))
    return plots.Panel(
        "an attacker is right at most, %", (guess, *found), floor=50.0, is_share=True
    )


def budget_panel(budgets: Sequence[tuple[BudgetPart, ...]]) -> plots.Panel:
    """Shares of the parts of plans, in percent."""
    names = list(dict.fromkeys(part.name for parts in budgets for part in parts))
    return plots.Panel(
        "share of the budget, %",
        tuple(
            plots.Curve(
                name,
                tuple(100 * sum(p.share for p in parts if p.name == name) for parts in budgets),
            )
            for name in names
        ),
        is_stacked=True,
    )


def plot_plans(found: Sequence[Calibration], file: Path) -> None:
    """Draw sigma, risk and budget of plans against the epsilon that each claims.

    Raises:
        ResourceError: the picture cannot be written.
    """
    sigma = plots.Curve("sigma", tuple(each.plan.sigma for each in found))
    panels = [
        plots.Panel("noise multiplier sigma", (sigma,), is_logarithmic=True),
        risk_panel([each.attack_risk for each in found]),
        budget_panel([budget_of(each.plan) for each in found]),
    ]
    epsilons = [each.target_epsilon or each.claim.epsilon for each in found]
    plots.write(plots.draw(epsilons, panels), file)
