"""The check of the sampler where hardly any record is left out, or drawn: rare events alone are no fault."""

from __future__ import annotations

from collections import Counter

import pytest
import tiny
import torch

from dpdm_cli.privacy.audit.sampler_checks import check_sampler
from dpdm_cli.privacy.poisson import PoissonSampler


def blamed(monkeypatch: pytest.MonkeyPatch, rate: float, missed: int, empty: int) -> set[str]:
    """What is blamed on a sampler that leaves `missed` records out, each in another step, and draws nobody so often."""
    draws: Counter[int] = Counter()

    def draw(self: PoissonSampler, records: int) -> torch.Tensor:
        number, draws[records] = draws[records], draws[records] + 1
        taken = torch.ones(records, dtype=torch.bool)
        if records == 1:
            taken[0] = number >= empty
        elif records == 200 and number < missed:
            taken[7 * number] = False
        return taken.nonzero().flatten()

    monkeypatch.setattr(PoissonSampler, "draw", draw)
    plan = tiny.plan(dataset_size=10**7, expected_batch_size=rate * 10**7, delta=1e-8)
    return {f.name.removeprefix("sampler, ") for f in check_sampler(plan) if not f.passed}


@pytest.mark.parametrize(
    ("rate", "missed", "empty"),
    [
        (0.9999, 8, 3),  # 8 and 0.05 are expected
        (0.99999, 0, 1),  # 0.8 and 0.005
        (0.99999, 6, 0),
        (0.9999999, 1, 1),
    ],
)
def test_what_happens_once_in_a_thousand_runs_is_not_blamed(
    rate: float, missed: int, empty: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert blamed(monkeypatch, rate, missed, empty) == set()


@pytest.mark.parametrize(
    ("rate", "missed", "empty", "what"),
    [
        (0.9999, 8, 8, "empty batches"),
        (0.99999, 1, 6, "empty batches"),
        (0.99999, 14, 0, "rate"),
        (0.999, 0, 2, "rate"),
    ],
)
def test_what_hardly_ever_happens_is_blamed(
    rate: float, missed: int, empty: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert what in blamed(monkeypatch, rate, missed, empty)
