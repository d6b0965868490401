"""The paper's convention gives the paper's sigmas."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support.accounting import (
    Q_MNIST,
    rdp_epsilon,
)

from dpdm_cli.privacy.accounting.accountants import (
    PAPER_ORDERS,
)
from dpdm_cli.privacy.accounting.paper_profile import calibrate_like_paper

PAPER_MNIST = {"dataset_size": 60_000, "batch_size": 4096, "steps": 300 * 15, "delta": 1e-5}


PAPER_CELEBA = {"dataset_size": 162_770, "batch_size": 2048, "steps": 300 * 80, "delta": 1e-6}


@pytest.mark.parametrize(
    ("facts", "epsilon", "sigma"),
    [
        (PAPER_MNIST, 0.2, 82.5),
        (PAPER_MNIST, 1, 18.28125),
        (PAPER_MNIST, 10, 2.48779296875),
        (PAPER_CELEBA, 1, 8.828125),
        (PAPER_CELEBA, 10, 1.3037109375),
    ],
)
def test_the_papers_sigmas_are_reproduced_to_the_last_digit(
    facts: dict[str, Any], epsilon: float, sigma: float
) -> None:
    plan = calibrate_like_paper(**facts, epsilon=epsilon)
    assert plan.sigma == sigma
    assert plan.accountant == "rdp"
    assert rdp_epsilon(plan.sample_rate, sigma, plan.steps, plan.delta) <= epsilon


@pytest.mark.parametrize(("size", "batch", "epsilon"), [(1438, 256, 4.0), (5000, 64, 30.0)])
def test_the_papers_search_is_that_of_opacus(size: int, batch: int, epsilon: float) -> None:
    from opacus.accountants.utils import get_noise_multiplier

    loader = math.ceil(size / batch)
    plan = calibrate_like_paper(
        dataset_size=size, batch_size=batch, steps=50 * loader, delta=1e-4, epsilon=epsilon
    )
    assert plan.sigma == get_noise_multiplier(
        target_epsilon=epsilon,
        target_delta=1e-4,
        sample_rate=1 / loader,
        steps=50 * loader,
        alphas=list(PAPER_ORDERS),
    )


def test_the_papers_plan_runs_at_the_papers_rate() -> None:
    plan = calibrate_like_paper(**PAPER_MNIST, epsilon=10)
    assert plan.sample_rate == 1 / 15
    assert plan.divisor == 4000


def test_the_papers_sigma_at_the_exact_rate_would_overrun_its_claim() -> None:
    assert rdp_epsilon(Q_MNIST, 2.48779296875, 4394, 1e-5) > 10
