"""The check of the sampler where hardly any record is left out, or drawn: rare events alone are no fault."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from support import tiny
from support.mutants_of_draws import SAMPLER

from dpdm_cli.privacy.audit.sampler_checks import check_sampler
from dpdm_cli.privacy.plan import PrivacyPlan
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


PLANS = {
    "as many records as are drawn from in the check": (200, 50),
    "MNIST, large batches": (60_000, 4096),
    "MNIST, small batches": (60_000, 256),
    "ImageNet": (1_281_167, 2048),
    "hardly any batch": (64, 0.1),
    "hardly any record left out": (64, 63.9),
    "all records": (64, 64),
}


def plan_of(name: str) -> PrivacyPlan:
    size, batch = PLANS[name]
    return tiny.plan(dataset_size=size, expected_batch_size=batch, delta=1e-8)


@pytest.mark.parametrize("name", PLANS)
def test_the_steps_own_sampler_passes_and_draws_from_nothing_that_a_seed_sets(name: str) -> None:
    before = torch.get_rng_state()
    assert [finding for finding in check_sampler(plan_of(name)) if not finding.passed] == []
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        *((name, "q = B / records held") for name in list(PLANS)[:3:2]),
        *(
            (name, mutant)
            for name in list(PLANS)[:4]
            for mutant in (
                "records counted twice",
                "a record in two micro-batches",
                "pairs never together",
                "batches come again after 150 steps",
            )
        ),
    ],
)
def test_impostors_are_found_under_the_plans_of_real_runs(
    name: str, mutant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it, detector = SAMPLER[mutant]
    break_it(monkeypatch)
    found = [finding.name for finding in check_sampler(plan_of(name)) if not finding.passed]
    assert any(what.startswith(detector) for what in found), found


@pytest.mark.parametrize("name", list(PLANS)[:4])
def test_batches_cut_at_twice_their_expected_size_are_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, draw = plan_of(name), PoissonSampler.draw
    most = round(2 * plan.expected_batch_size)
    monkeypatch.setattr(PoissonSampler, "draw", lambda *a: draw(*a)[:most])
    found = [finding.name for finding in check_sampler(plan) if not finding.passed]
    assert "sampler, many records held" in found


def test_a_record_that_does_not_exist_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = PoissonSampler.draw
    monkeypatch.setattr(PoissonSampler, "draw", lambda *a: draw(*a) - 1)  # -1 is the last one
    found = [finding.name for finding in check_sampler(tiny.plan()) if not finding.passed]
    assert "sampler, no record twice" in found
