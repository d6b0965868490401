"""The plans of the paper's data sets, and epsilons by each accountant for one kind of step."""

from __future__ import annotations

from typing import Any

from dpdm_cli.privacy.accounting.accountants import (
    ORDERS,
    composed_pld_epsilon,
    composed_prv_epsilon,
    composed_rdp_epsilon,
)
from dpdm_cli.privacy.plan import PrivacyPlan


def rdp_epsilon(
    q: float, sigma: float, steps: int, delta: float, orders: tuple[float, ...] = ORDERS
) -> float:
    return composed_rdp_epsilon(((q, sigma, steps),), delta, orders)


def prv_epsilon(q: float, sigma: float, steps: int, delta: float, eps_error: float) -> float:
    return composed_prv_epsilon(((q, sigma, steps),), delta, eps_error)


def pld_epsilon(q: float, sigma: float, steps: int, delta: float, interval: float = 1e-4) -> float:
    return composed_pld_epsilon(((q, sigma, steps),), delta, interval)


MNIST: dict[str, Any] = {
    "dataset_size": 60_000,
    "expected_batch_size": 4096,
    "steps": 4394,
    "delta": 1e-5,
}


Q_MNIST, Q_CELEBA = 4096 / 60_000, 2048 / 162_770


def plan_with(**changes: Any) -> PrivacyPlan:
    return PrivacyPlan(**{**MNIST, "sigma": 2.4, **changes})


SPARSE = {"dataset_size": 7_400_000, "expected_batch_size": 256, "steps": 157, "delta": 1e-8}
