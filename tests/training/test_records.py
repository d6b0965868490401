"""Persons as records: whose images a step sees, which of them, and what a warm start makes of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from support import tiny
from support.poisson_statistics import poisson_p_value
from torch import Tensor

from dpdm_cli.data import ImageSet
from dpdm_cli.diffusion.keyed_noise import KeyedNoise
from dpdm_cli.errors import DataError, PrivacyError, UsageError
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.training.config.settings import TrainSettings
from dpdm_cli.training.records import People, people_in
from dpdm_cli.training.trainer import Trainer
from dpdm_cli.training.warm_start import learn_prior, new_prior

IMAGES_OF = torch.tensor([1, 2, 50, 3, 7])


def shuffled(images_of: Tensor) -> Tensor:
    """Whose each image is, in no order."""
    persons = torch.arange(len(images_of)).repeat_interleave(images_of)
    return persons[torch.randperm(len(persons), generator=torch.Generator().manual_seed(0))]


def held_by(persons: Tensor) -> ImageSet:
    return dataclasses.replace(tiny.images(len(persons)), persons=persons)


def trainer_for(images: ImageSet, **plan: object) -> Trainer:
    the_plan = tiny.plan(unit="one person", **plan)
    return Trainer(
        tiny.config(),
        TrainSettings(noise_multiplicity=2, micro_batch=4, precision="float32"),
        images,
        steps=the_plan.steps,
        sample_rate=the_plan.sample_rate,
        ledger=Ledger(the_plan),
        device=torch.device("cpu"),
    )


def test_nobody_stands_in_for_a_person_without_images() -> None:
    with pytest.raises(PrivacyError, match="no image"):
        People(torch.tensor([0, 0, 2]))


def test_each_image_of_a_person_is_chosen_alike_and_none_of_others() -> None:
    persons = shuffled(IMAGES_OF)
    people, everyone, copies, steps = People(persons), torch.arange(len(IMAGES_OF)), 4, 3000
    chosen = torch.stack(
        [
            people.choose(everyone, copies, KeyedNoise((12345, step), everyone))
            for step in range(steps)
        ]
    )
    whose = everyone.repeat_interleave(copies)
    assert torch.equal(persons[chosen], whose.expand(steps, -1))
    counts = torch.bincount(chosen.flatten(), minlength=len(persons)).numpy()
    for person, held in enumerate(IMAGES_OF.tolist()):
        own = counts[(persons == person).numpy()]
        assert own.sum() == copies * steps
        assert held == 1 or stats.chisquare(own).pvalue > 1e-5


def test_copies_steps_and_persons_choose_independently() -> None:
    people = People(torch.arange(3).repeat_interleave(torch.tensor([2, 2, 3])))
    everyone, steps = torch.arange(3), 4000
    chosen = torch.stack(
        [people.choose(everyone, 2, KeyedNoise((99, step), everyone)) for step in range(steps)]
    ).numpy()
    columns = [chosen[:, i] for i in range(6)]
    pairs = [(a, b) for i, a in enumerate(columns) for b in columns[i + 1 :]]
    pairs += [(column[1:], column[:-1]) for column in columns]
    for one, other in pairs:
        assert stats.chi2_contingency(stats.contingency.crosstab(one, other).count).pvalue > 1e-5


def test_choices_are_a_matter_of_the_person_alone() -> None:
    people = People(shuffled(IMAGES_OF))
    everyone, some = torch.arange(5), torch.tensor([4, 2])
    whole = people.choose(everyone, 6, KeyedNoise((7,), everyone)).view(5, 6)
    assert torch.equal(people.choose(some, 6, KeyedNoise((7,), some)).view(2, 6), whole[some])


@pytest.mark.parametrize("limit", [1, 2, 3, 2**31])
def test_numbers_below_a_limit_fill_it_and_stay_below(limit: int) -> None:
    keys = torch.arange(20_000)
    drawn = KeyedNoise((1,), keys).below(torch.full_like(keys, limit), 2)
    assert drawn.shape == (20_000, 2)
    assert 0 <= int(drawn.min()) <= 1e-3 * limit
    assert 0.999 * (limit - 1) <= int(drawn.max()) < limit


def test_a_run_draws_its_persons_independently_at_its_rate_whatever_they_hold() -> None:
    images_of = torch.arange(60) % 4 + 1
    images_of[7] = 50
    trainer = trainer_for(
        held_by(shuffled(images_of)), dataset_size=80, expected_batch_size=20, steps=1
    )
    step = trainer._private_step
    assert step is not None
    assert step._records == 60
    masks = np.zeros((1500, 60))
    for mask in masks:
        mask[step._sampler.draw(step._records).numpy()] = 1
    assert poisson_p_value(masks, 0.25) > 1e-4
    # The one with 50 images comes as often as anybody.
    assert stats.binomtest(int(masks[:, 7].sum()), 1500, 0.25).pvalue > 1e-4


def test_a_loss_is_the_mean_over_copies_each_of_an_image_of_the_person() -> None:
    images = held_by(shuffled(IMAGES_OF))
    trainer = trainer_for(images, dataset_size=5, expected_batch_size=5, delta=1e-3)
    everyone = torch.arange(5)
    whole = trainer._losses(everyone).detach()
    assert whole.shape == (5,)
    # Anybody else's images may be anything.
    pixels = images.images.clone()
    for person in range(5):
        trainer._here = torch.where((images.persons == person).view(-1, 1, 1, 1), pixels, 0)
        alone = trainer._losses(everyone[person : person + 1]).detach()
        torch.testing.assert_close(alone, whole[person : person + 1], rtol=1e-4, atol=0)
        trainer._here = pixels - trainer._here
        other = trainer._losses(everyone[person : person + 1]).detach()
        assert not torch.isclose(other, alone, rtol=1e-4, atol=0)


def test_a_warm_start_makes_means_of_persons_means() -> None:
    """A person with fifty black images weighs as much as one with a single white one."""
    persons = torch.tensor([0] * 50 + [1])
    pixels = torch.zeros(51, 1, 8, 8, dtype=torch.uint8)
    pixels[50] = 255
    images = ImageSet(name="two", images=pixels, labels=None, classes=(), persons=persons)
    plan = tiny.plan(
        unit="one person",
        dataset_size=2,
        expected_batch_size=1,
        delta=1e-3,
        warm_start="means",
        warm_sigma=1e-6,
    )
    prior = new_prior((1, 8, 8), 0)
    learn_prior(prior, images, Ledger(plan), people=People(persons))
    assert prior.low.images(prior.means[:1]).abs().max() < 1e-3  # between -1 and 1


def test_persons_that_are_not_known_are_asked_for() -> None:
    images = tiny.images(4)
    assert people_in(images, "image") is None
    with pytest.raises(UsageError, match="whose each image is") as error:
        people_in(images, "person")
    assert "--layout" in str(error.value.hint)
    assert "--person-column" in str(error.value.hint)


@pytest.mark.parametrize(
    "persons",
    [
        torch.tensor([0, 1, 2]),
        torch.tensor([0, 1, 1, 3]),
        torch.tensor([-1, 0, 1, 2]),
        torch.tensor([0.0, 1.0, 2.0, 3.0]),
    ],
)
def test_persons_are_numbered_from_0_on_without_gaps(persons: Tensor) -> None:
    with pytest.raises(DataError, match="persons"):
        dataclasses.replace(tiny.images(4), persons=persons)
