"""Calibrations are never on the unsafe side, waste little, and nothing hangs."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import pytest
from support.accounting import (
    MNIST,
    SPARSE,
    pld_epsilon,
)

from dpdm_cli.errors import PrivacyError, UsageError
from dpdm_cli.privacy.accounting import accountants
from dpdm_cli.privacy.accounting import claims as accounting
from dpdm_cli.privacy.accounting.accountants import (
    NotComputable,
)
from dpdm_cli.privacy.accounting.claims import (
    calibrate,
    claim,
)
from dpdm_cli.privacy.plan import steps_for_epochs

CELEBA: dict[str, Any] = {
    "dataset_size": 162_770,
    "expected_batch_size": 2048,
    "steps": steps_for_epochs(162_770, 2048, 300),
    "delta": 1e-6,
}


@pytest.mark.parametrize(
    ("facts", "epsilon", "accountant"),
    [
        (MNIST, 10, "prv"),
        (MNIST, 1, "prv"),
        (MNIST, 0.2, "prv"),
        (CELEBA, 1, "prv"),
        (MNIST, 10, "rdp"),
        (MNIST, 0.2, "rdp"),
        (MNIST, 1, "pld"),
        ({**MNIST, "steps": 1}, 1, "prv"),
        ({**MNIST, "expected_batch_size": 60_000, "steps": 10}, 3, "prv"),
        ({**MNIST, "expected_batch_size": 30_000, "steps": 40}, 8, "prv"),
    ],
)
def test_a_calibrated_plan_claims_at_most_its_target_and_wastes_little(
    facts: dict[str, Any], epsilon: float, accountant: str
) -> None:
    plan = calibrate(**facts, epsilon=epsilon, accountant=accountant)
    made = claim(plan)
    assert plan.accountant == made.accountant == accountant
    assert 0.995 * epsilon <= made.epsilon <= epsilon
    less = claim(dataclasses.replace(plan, sigma=0.98 * plan.sigma))
    assert less.epsilon > epsilon
    # Another group's code and another method: never above the target.
    independent = pld_epsilon(plan.sample_rate, plan.sigma, plan.steps, plan.delta)
    assert independent <= epsilon


@pytest.mark.parametrize(
    ("facts", "epsilon"),
    [
        (SPARSE, 0.5),
        ({**SPARSE, "steps": 2890}, 1.0),
        ({**SPARSE, "steps": 156}, 0.2),
        ({**MNIST, "dataset_size": 1_281_167, "expected_batch_size": 1024, "delta": 1e-7}, 0.5),
    ],
)
def test_no_plan_has_more_than_two_percent_too_much_noise(
    facts: dict[str, Any], epsilon: float
) -> None:
    """Where RDP is far above the truth, noise found by RDP would be up to 2.3 times what is needed."""
    plan = calibrate(**facts, epsilon=epsilon)
    assert accounting.TIGHTNESS * epsilon <= claim(plan).epsilon <= epsilon
    assert pld_epsilon(plan.sample_rate, 0.98 * plan.sigma, plan.steps, plan.delta, 1e-5) > epsilon


@pytest.mark.parametrize("reachable_from", [0.0, 0.9, 1.0, 1.2])
@pytest.mark.parametrize("guess", [0.1, 0.99, 1.5, 40.0])
def test_a_sigma_without_a_bound_is_on_the_unsafe_side(guess: float, reachable_from: float) -> None:
    """Epsilon falls steeply, and below some sigma there is no bound: the search neither gives up nor passes over it."""

    def bound(sigma: float) -> float:
        if sigma < reachable_from:
            raise NotComputable("beyond 50")
        return 0.5 * sigma**-10.0

    found = accounting._least_sigma(bound, 0.5, guess)
    assert found is not None
    assert max(1.0, reachable_from) <= found <= 1.002 * max(1.0, reachable_from)


def test_prv_needs_less_noise_than_rdp() -> None:
    prv = calibrate(**MNIST, epsilon=1).sigma
    assert 0.90 < prv / calibrate(**MNIST, epsilon=1, accountant="rdp").sigma < 0.96


def test_where_prv_cannot_reach_the_target_the_plan_names_rdp() -> None:
    plan = calibrate(**MNIST, epsilon=80)
    assert plan.accountant == "rdp"
    assert 0.995 * 80 <= claim(plan).epsilon <= 80


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"epsilon": 0}, UsageError),
        ({"epsilon": -1}, UsageError),
        ({"epsilon": math.nan}, UsageError),
        ({"epsilon": math.inf}, UsageError),
        ({"epsilon": "ten"}, UsageError),
        ({"epsilon": 1e4}, PrivacyError),
        ({"delta": 1 / 60_000}, PrivacyError),
        ({"delta": 0.0}, UsageError),
        ({"delta": math.nan}, UsageError),
        ({"steps": 0}, UsageError),
        ({"expected_batch_size": 60_001}, UsageError),
        ({"dataset_size": math.inf}, UsageError),
        ({"accountant": "gdp"}, PrivacyError),
    ],
)
def test_nonsense_is_refused_before_any_accountant_sees_it(
    changes: dict[str, Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(*_: object) -> float:
        raise AssertionError("an accountant was asked")

    for name in ("composed_rdp_epsilon", "composed_prv_epsilon", "composed_pld_epsilon"):
        monkeypatch.setattr(accountants, name, seen)
    with pytest.raises(error):
        calibrate(**{**MNIST, "epsilon": 1.0, **changes})


@pytest.mark.parametrize("accountant", ["prv", "rdp", "pld"])
@pytest.mark.parametrize("changes", [{"epsilon": 1e-4}, {"epsilon": 1e-3, "delta": 1e-15}])
def test_a_target_no_noise_reaches_is_refused_in_seconds(
    changes: dict[str, Any], accountant: str
) -> None:
    begun = time.monotonic()
    with pytest.raises(PrivacyError, match="cannot be claimed"):
        calibrate(**{**MNIST, **changes}, accountant=accountant)
    assert time.monotonic() - begun < 30
