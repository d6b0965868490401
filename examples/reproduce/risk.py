"""Print the table of RISK.md: what `dpdm` bounds, beside what other people's code computes for the same plans.

The others: Opacus' PRV, an estimate; and gdpnum for mu and its regret, which is no dependency: pip install gdpnum
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import gdpnum
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from opacus.accountants.analysis import prv

from dpdm_cli.privacy.accounting.accountants import Part, quiet
from dpdm_cli.privacy.accounting.claims import calibrate, claim
from dpdm_cli.privacy.accounting.risk import risk_of
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.stored import parse_json

PRETRAINED = Path(__file__).parents[1] / "pretrained"
RATES = (0.001, 0.01, 0.1)
EPSILONS = [index / 100 for index in range(2001)]
MNIST = {"dataset_size": 60_000, "expected_batch_size": 4096, "steps": 4394, "delta": 1e-5}


def plans() -> dict[str, PrivacyPlan]:
    """By name: those of the shipped models, and the paper's for MNIST."""
    found = {}
    for folder in sorted(PRETRAINED.iterdir()):
        statement = parse_json((folder / "statement.json").read_bytes(), str(folder))
        found[f"shipped {folder.name}"] = PrivacyPlan.from_dict(statement["plan"])
    for epsilon in (10.0, 1.0, 0.2):
        found[f"the paper's MNIST plan, epsilon {epsilon:g}"] = calibrate(epsilon=epsilon, **MNIST)  # type: ignore[arg-type]
    return found


def rates(deltas: Sequence[float]) -> list[float]:
    """Guess at even odds and true positive rates that a curve of deltas at `EPSILONS` allows."""
    curve = list(zip(EPSILONS, deltas, strict=True))
    best = [
        min(
            bound
            for e, d in curve
            for bound in (math.exp(e) * rate + d, 1 - (1 - rate - d) * math.exp(-e), 1.0)
        )
        for rate in RATES
    ]
    return [(1 + deltas[0]) / 2, *best]


def by_opacus(parts: Sequence[Part]) -> list[float]:
    """Opacus' PRV on a grid of half-width 60."""
    domain = prv.Domain.create_aligned(-60, 60, 2e-4)
    with quiet():
        losses = [
            prv.TruncatedPrivacyRandomVariable(
                prv.PoissonSubsampledGaussianPRV(q, sigma), domain.t_min, domain.t_max
            )
            for q, sigma, _ in parts
        ]
        composed = prv.compose_heterogeneous(
            [prv.discretize(loss, domain) for loss in losses], [steps for *_, steps in parts]
        )
        return rates([float(composed.compute_delta_estimate(e)) for e in EPSILONS])


def by_gdpnum(parts: Sequence[Part]) -> tuple[float, float]:
    """Mu and regret."""
    losses = [
        from_gaussian_mechanism(
            sigma, sampling_prob=q, value_discretization_interval=1e-3, use_connect_dots=True
        ).self_compose(steps)
        for q, sigma, steps in parts
    ]
    together = functools.reduce(lambda one, other: one.compose(other), losses)
    mu, regret = gdpnum.PLDConverter(together).get_mu_and_regret(err=1e-5)
    return float(mu), float(regret)


def main() -> None:
    """All rows."""
    print("| plan | by | guess | TPR at 0.1 % | at 1 % | at 10 % | mu, regret |")
    print("|---|---|---|---|---|---|---|")
    for name, plan in plans().items():
        parts, risk = plan.parts(), risk_of(plan)
        assert risk.gaussian_dp is not None
        ours = [risk.attack.guess, *(bound for _, bound in risk.attack.true_positive_rates)]
        mu, regret = by_gdpnum(parts)
        rows = {
            f"{name} ({claim(plan).epsilon:.3f})": (
                "dpdm",
                ours,
                f"{risk.gaussian_dp.mu:.4f}, {risk.gaussian_dp.regret:.4f}",
            ),
            "": ("Opacus PRV; gdpnum", by_opacus(parts), f"{mu:.4f}, {regret:.4f}"),
        }
        for first, (who, found, fit) in rows.items():
            shown = " | ".join(f"{100 * value:.2f}" for value in found)
            print(f"| {first.strip()} | {who} | {shown} | {fit} |")


if __name__ == "__main__":
    main()
