"""A claim under another question, against figures computed elsewhere."""

from __future__ import annotations

import math

import pytest
from dp_accounting import get_epsilon_gaussian

from dpdm_cli.errors import PrivacyError, UsageError
from dpdm_cli.privacy.accounting.claims import claim
from dpdm_cli.privacy.accounting.restating import (
    person_epsilon,
    replace_one_epsilon,
    selection_epsilon,
)
from dpdm_cli.privacy.plan import PrivacyPlan


def paper_plan(sigma: float) -> PrivacyPlan:
    """MNIST as the paper ran it: q = 1/15, 4,500 steps."""
    return PrivacyPlan(
        dataset_size=60_000, expected_batch_size=4_000, steps=4_500, sigma=sigma, delta=1e-5
    )


@pytest.mark.parametrize(
    ("sigma", "one", "replaced"), [(18.28125, 0.907, 1.95), (2.48779, 9.29, 21.0)]
)
def test_replacing_one_costs_about_twice_as_much(sigma: float, one: float, replaced: float) -> None:
    plan = paper_plan(sigma)
    assert claim(plan).epsilon_by["pld"] == pytest.approx(one, abs=0.01)
    assert replace_one_epsilon(plan) == pytest.approx(replaced, rel=0.02)


def test_a_person_with_one_image_is_the_claim_and_with_more_pays_more_than_their_share() -> None:
    plan = paper_plan(18.28125)
    alone, two, five = (person_epsilon(plan, images) for images in (1, 2, 5))
    assert alone == pytest.approx(claim(plan).epsilon_by["pld"], rel=2e-3)
    assert 2 * alone < two < 2.5 * alone
    assert 5 * alone < five < 8 * alone


def test_at_rate_one_a_persons_images_are_one_louder_image() -> None:
    plan = PrivacyPlan(
        dataset_size=1000, expected_batch_size=1000, steps=10, sigma=30.0, delta=1e-5
    )
    louder = PrivacyPlan(
        dataset_size=1000, expected_batch_size=1000, steps=10, sigma=10.0, delta=1e-5
    )
    three = person_epsilon(plan, 3)
    assert three == pytest.approx(claim(louder).epsilon_by["pld"], rel=5e-3)


@pytest.mark.parametrize(
    ("sigma", "steps", "delta"),
    [(15.93952133840611, 1269, 3.2115573e-11), (8.472948093825666, 267, 8.532786e-12)],
)
def test_no_restatement_is_below_the_closed_form_at_a_small_delta(
    sigma: float, steps: int, delta: float
) -> None:
    # At rate 1 one image in another's place, or two images, are one Gaussian of twice the sensitivity.
    plan = PrivacyPlan(
        dataset_size=1000, expected_batch_size=1000, steps=steps, sigma=2 * sigma, delta=delta
    )
    exact = get_epsilon_gaussian(sigma / math.sqrt(steps), delta)
    for restated in (replace_one_epsilon(plan), person_epsilon(plan, 2)):
        assert exact <= restated <= 1.005 * exact


@pytest.mark.parametrize(("sigma", "selected"), [(18.133, 2.1), (2.48715, 15.6)])
def test_publishing_the_best_of_ten_on_average_costs_more(sigma: float, selected: float) -> None:
    plan = paper_plan(sigma)
    assert selection_epsilon(plan, 10) == pytest.approx(selected, rel=0.05)


def test_bad_questions_are_refused() -> None:
    plan = paper_plan(18.0)
    for images in (0, -1, 1.5):
        with pytest.raises(UsageError):
            person_epsilon(plan, images)  # type: ignore[arg-type]
    with pytest.raises(PrivacyError):
        person_epsilon(plan, 100_000)
    for mean in (1.0, 0.5):
        with pytest.raises(PrivacyError):
            selection_epsilon(plan, mean)
    with pytest.raises(UsageError):
        selection_epsilon(plan, float("nan"))
