"""What a warm start releases: by how much one record moves it, its noise, its line in the ledger."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable

import pytest
import torch
from dp_accounting import get_sigma_gaussian
from hypothesis import given, settings
from hypothesis import strategies as st
from support.statements import checked, stated
from torch import Tensor

from dpdm_cli.errors import DamagedFileError, PrivacyError, UsageError
from dpdm_cli.privacy.accounting.accountants import (
    composed_pld_epsilon,
    composed_prv_epsilon,
)
from dpdm_cli.privacy.accounting.claims import calibrate, claim
from dpdm_cli.privacy.accounting.restating import (
    person_epsilon,
    replace_one_epsilon,
    selection_epsilon,
)
from dpdm_cli.privacy.class_sums import noisy_class_squares, noisy_class_sums
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan

KINDS = [noisy_class_sums, noisy_class_squares]
CLASSES, SIZE = 3, 7


def plan_with(warm_sigma: float | None = 2.0, warm_start: str = "moments") -> PrivacyPlan:
    return PrivacyPlan(
        dataset_size=1000,
        expected_batch_size=50,
        steps=20,
        sigma=1.5,
        delta=1e-5,
        warm_start=warm_start,
        warm_sigma=warm_sigma,
    )


def released(
    kind: Callable[..., Tensor], rows: Tensor, labels: Tensor, warm_sigma: float = 1e-9
) -> Tensor:
    ledger = Ledger(plan_with(warm_sigma))
    micro_batches = zip(rows.clone().split(4), labels.split(4), strict=True)
    return kind(ledger, micro_batches, classes=CLASSES, size=SIZE)


@pytest.mark.parametrize("kind", KINDS)
@given(
    scale=st.sampled_from([0.0, 1e-20, 0.3, 1.0, 40.0, 1e19, math.inf, math.nan]),
    label=st.integers(0, CLASSES - 1),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_one_record_moves_all_sums_together_by_at_most_one(
    kind: Callable[..., Tensor], scale: float, label: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(13, SIZE, generator=generator)
    labels = torch.randint(0, CLASSES, (13,), generator=generator)
    extra = torch.randn(1, SIZE, generator=generator) * scale
    before = released(kind, rows, labels)
    after = released(kind, torch.cat([extra, rows]), torch.cat([torch.tensor([label]), labels]))
    moved = (after - before).norm()
    assert moved <= 1 + 1e-6
    if not math.isfinite(scale):
        assert moved < 1e-6
    if scale == 40.0:
        assert moved > 0.99  # the whole budget is used


def of_records(
    kind: Callable[..., Tensor], rows: Tensor, labels: Tensor, of: Tensor, vectors_of: Tensor
) -> Tensor:
    """Released with almost no noise, for records of several vectors."""
    micro_batches = zip(rows.clone().split(4), labels.split(4), of.split(4), strict=True)
    ledger = Ledger(plan_with(1e-9))
    return kind(ledger, micro_batches, classes=CLASSES, size=SIZE, vectors_of=vectors_of)


@pytest.mark.parametrize("kind", KINDS)
@given(
    held=st.sampled_from([1, 2, 50]),
    scale=st.sampled_from([0.3, 1.0, 40.0, 1e19, math.inf, math.nan]),
    alike=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_a_record_of_several_vectors_moves_all_sums_together_by_at_most_one(
    kind: Callable[..., Tensor], held: int, scale: float, alike: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors_of = torch.tensor([3, 1, 5, 2, held])
    of = torch.arange(5).repeat_interleave(vectors_of)
    rows = torch.randn(len(of), SIZE, generator=generator)
    labels = torch.randint(0, CLASSES, (len(of),), generator=generator)
    rows[of == 4] *= scale
    if alike:  # the worst case: all in one class and one direction
        rows[of == 4], labels[of == 4] = rows[-1].clone(), 1
    order = torch.randperm(len(of), generator=generator)
    rows, labels, of = rows[order], labels[order], of[order]
    whole = of_records(kind, rows, labels, of, vectors_of)
    rest = of != 4
    moved = (whole - of_records(kind, rows[rest], labels[rest], of[rest], vectors_of)).norm()
    assert moved <= 1 + 1e-6
    if not math.isfinite(scale):
        assert moved < 1e-6
    if alike and scale == 40.0:
        assert moved > 0.99  # the whole budget is used


def test_records_add_the_mean_of_their_vectors_over_classes() -> None:
    vectors_of = torch.tensor([1, 4, 2])
    of = torch.arange(3).repeat_interleave(vectors_of)
    rows, labels = torch.randn(7, SIZE).double() * 0.1, torch.arange(7) % CLASSES
    sums, squares = (of_records(kind, rows, labels, of, vectors_of) for kind in KINDS)
    for c in range(CLASSES):
        shares = (labels == c) / vectors_of[of]
        torch.testing.assert_close(sums[c], (shares[:, None] * rows).sum(0), atol=1e-7, rtol=0)
        expected = torch.einsum("i,ij,ik->jk", shares.double(), rows, rows)
        torch.testing.assert_close(squares[c], expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_with_more_vectors_than_were_said_is_not_released(
    kind: Callable[..., Tensor],
) -> None:
    ledger = Ledger(plan_with())
    batches = [(torch.ones(3, SIZE), torch.zeros(3).long(), torch.tensor([0, 1, 1]))]
    with pytest.raises(PrivacyError, match="more vectors"):
        kind(ledger, batches, classes=1, size=SIZE, vectors_of=torch.tensor([1, 1]))
    assert ledger.releases == 0


def test_sums_and_squares_are_those_of_the_records() -> None:
    rows = torch.randn(20, SIZE).double() * 0.1
    labels = torch.arange(20) % CLASSES
    sums, squares = (released(kind, rows, labels) for kind in KINDS)
    for c in range(CLASSES):
        members = rows[labels == c]
        torch.testing.assert_close(sums[c], members.sum(0), atol=1e-7, rtol=0)
        torch.testing.assert_close(squares[c], members.T @ members, atol=1e-7, rtol=0)


def test_the_noise_on_squares_is_symmetric_and_smaller_off_the_diagonal() -> None:
    nobody = torch.zeros(0, SIZE), torch.zeros(0, dtype=torch.int64)
    draws = torch.cat([released(noisy_class_squares, *nobody, warm_sigma=3.0) for _ in range(400)])
    torch.testing.assert_close(draws, draws.transpose(1, 2), atol=0, rtol=0)
    diagonal = draws.diagonal(dim1=1, dim2=2).std()
    row, column = torch.triu_indices(SIZE, SIZE, offset=1)
    above = draws[:, row, column].std()
    assert diagonal == pytest.approx(3.0, rel=0.05)
    assert above == pytest.approx(3.0 / math.sqrt(2), rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_that_of_the_plan_and_never_the_same(kind: Callable[..., Tensor]) -> None:
    rows, labels = torch.randn(5, SIZE), torch.zeros(5, dtype=torch.int64)
    one, two = (released(kind, rows, labels, warm_sigma=1.0) for _ in range(2))
    assert not torch.equal(one, two)


def test_every_sum_is_a_line_and_none_is_released_beyond_the_plan() -> None:
    ledger = Ledger(plan_with())
    nobody = [(torch.zeros(0, SIZE), torch.zeros(0, dtype=torch.int64))]
    with pytest.raises(PrivacyError, match="warm start, which has not been made"):
        ledger.record()
    for count in (1, 2):
        assert not ledger.is_warm
        noisy_class_sums(ledger, nobody, classes=CLASSES, size=SIZE)
        assert (ledger.releases, ledger.steps) == (count, 0)
    for kind in KINDS:
        with pytest.raises(PrivacyError, match="have been released"):
            kind(ledger, nobody, classes=CLASSES, size=SIZE)
    assert ledger.is_warm
    ledger.record()
    assert (ledger.releases, ledger.steps) == (3, 1)
    assert Ledger.from_json(ledger.plan, ledger.to_json()).steps == 1


def test_nothing_is_released_without_a_warm_start_in_the_plan() -> None:
    ledger = Ledger(plan_with(warm_start="none", warm_sigma=None))
    nobody = [(torch.zeros(0, SIZE), torch.zeros(0, dtype=torch.int64))]
    for kind in KINDS:
        with pytest.raises(PrivacyError):
            kind(ledger, nobody, classes=CLASSES, size=SIZE)


def test_noise_comes_from_the_entropy_that_is_given_and_from_the_system_by_default() -> None:
    asked = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return os.urandom(count)

    nobody = [(torch.zeros(0, SIZE), torch.zeros(0, dtype=torch.int64))]
    noisy_class_sums(Ledger(plan_with()), nobody, classes=CLASSES, size=SIZE, entropy=entropy)
    assert sum(asked) >= 8 * CLASSES * SIZE


@pytest.mark.parametrize(
    ("warm_start", "warm_sigma"),
    [("none", 2.0), ("moments", None), ("moments", 0.0), ("moments", math.nan), ("medians", 1.0)],
)
def test_a_plan_knows_its_warm_start_whole_or_not_at_all(
    warm_start: str, warm_sigma: float | None
) -> None:
    with pytest.raises(UsageError):
        plan_with(warm_start=warm_start, warm_sigma=warm_sigma)


def test_the_parts_of_a_plan_are_its_releases_in_order() -> None:
    plan = plan_with()
    steps, warm = (0.05, 1.5), (1.0, 2.0)
    assert plan.parts() == [(*steps, 20), (*warm, 2)]
    assert plan.parts(0, 1) == [(*warm, 1)]
    assert plan.parts(1) == [(*steps, 20), (*warm, 1)]
    assert plan.parts(2) == [(*steps, 20)]
    assert plan.parts(5, 9) == [(*steps, 4)]
    assert plan.parts(22) == []


@pytest.mark.parametrize("epsilon", [0.2, 1.0, 10.0])
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_a_share_of_the_budget_is_paid_and_the_claim_covers_both(
    epsilon: float, share: float
) -> None:
    common: dict[str, object] = {
        "epsilon": epsilon,
        "delta": 1e-5,
        "dataset_size": 60_000,
        "expected_batch_size": 256,
        "steps": 1500,
    }
    alone = calibrate(**common)  # type: ignore[arg-type]
    warm = calibrate(**common, warm_start="moments", warm_share=share)  # type: ignore[arg-type]
    assert warm.sigma > alone.sigma
    assert 0.99 * epsilon <= claim(warm).epsilon <= epsilon
    only_steps = claim(dataclasses.replace(warm, warm_start="none", warm_sigma=None))
    assert only_steps.epsilon < claim(warm).epsilon
    assert warm.warm_sigma == pytest.approx(
        get_sigma_gaussian(epsilon, 1e-5) * math.sqrt(2 / share), rel=1e-6
    )
    assert claim(warm).epsilon_by["pld"] == pytest.approx(claim(warm).epsilon, rel=0.03)


def test_accountants_agree_on_a_warm_start_with_steps() -> None:
    parts = plan_with().parts()
    prv = composed_prv_epsilon(parts, 1e-5, 0.01)
    assert composed_pld_epsilon(parts, 1e-5) == pytest.approx(prv, abs=0.03)
    # Two sums at sigma 2 are one at 2 / sqrt(2).
    two, one = ((1.0, 2.0, 2),), ((1.0, math.sqrt(2), 1),)
    assert composed_pld_epsilon(two, 1e-5) == pytest.approx(
        composed_pld_epsilon(one, 1e-5), rel=1e-3
    )


def test_the_statement_says_what_the_warm_start_was_and_cannot_leave_it_out() -> None:
    ledger = Ledger(plan_with())
    for _ in range(2):
        ledger.record(warm=True)
    ledger.record()
    statement = stated(ledger)
    assert "warm start by moments: 2 sums" in statement["text"]
    assert statement["epsilon"] >= claim(ledger.plan).epsilon
    assert checked(statement).releases == 3
    for name, value in (("warm_start", "none"), ("warm_sigma", 3.0)):
        with pytest.raises((PrivacyError, DamagedFileError)):
            checked({**statement, "plan": {**statement["plan"], name: value}})


@pytest.mark.slow
def test_restatements_count_the_warm_start() -> None:
    warm, cold = plan_with(), plan_with(warm_start="none", warm_sigma=None)
    assert replace_one_epsilon(warm) > replace_one_epsilon(cold)
    assert person_epsilon(warm, 3) > person_epsilon(cold, 3)
    assert selection_epsilon(warm, 5) > selection_epsilon(cold, 5)
    # A person's images all take part in a sum: as if it had so many times less noise.
    louder = dataclasses.replace(warm, warm_sigma=2.0 / 3)
    assert person_epsilon(warm, 3) > claim(louder).epsilon
