"""What an image's gradient depends on beside the image is drawn afresh by every run, and is nobody's to know.

Removing an image of a folder renumbers those behind it. With draws that are a public function of an image's number, or
of its place in a batch, they would get other draws, and the sum would move by far more than C; with secret ones they
are as likely to get the draws they had.
"""

from __future__ import annotations

import json

import pytest
import torch
from support import tiny

from dpdm_cli.evaluation.classifiers.networks import build_classifier
from dpdm_cli.evaluation.private_classifiers import scattering_classifier
from dpdm_cli.evaluation.private_classifiers.private_classifier import train_privately
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.reporter import SilentProgress
from dpdm_cli.training.config.settings import TrainSettings
from dpdm_cli.training.trainer import Trainer

CPU = torch.device("cpu")
RECORDS = torch.arange(24)


def trainer(steps: int = 0) -> Trainer:
    """With one seed, after some steps of a run that is gone on with."""
    plan = tiny.plan(noise_multiplicity=2)
    made = Trainer(
        tiny.config(),
        TrainSettings(seed=7, noise_multiplicity=2, micro_batch=4),
        tiny.images(len(RECORDS)),
        steps=plan.steps,
        sample_rate=plan.sample_rate,
        ledger=tiny.ledger(plan, steps) if steps else Ledger(plan),
        device=CPU,
    )
    made._denoiser.network.load_state_dict(tiny.denoiser().network.state_dict())
    return made


def losses(made: Trainer) -> torch.Tensor:
    with torch.no_grad():
        return made._losses(RECORDS)


def test_two_runs_of_one_seed_draw_other_noise_for_the_same_image() -> None:
    one, two = losses(trainer()), losses(trainer())
    assert ((one - two).abs() > 1e-6).all()


def test_a_resumed_run_draws_other_noise_than_the_run_it_goes_on_with() -> None:
    first = trainer(2)
    resumed = trainer(2)
    resumed.restore(first.state(), 2)
    assert ((losses(first) - losses(resumed)).abs() > 1e-6).all()


def test_a_step_draws_other_noise_than_the_step_before() -> None:
    made = trainer()
    before = losses(made)
    made.done += 1
    assert ((losses(made) - before).abs() > 1e-6).all()


def test_the_key_of_the_noise_is_in_nothing_that_is_kept() -> None:
    made = trainer()
    key = made._noise_key
    assert key.bit_length() > 32  # one key in two billion has fewer bits
    kept = {name: tensor.double().sum().item() for name, tensor in made.state().items()}
    assert made.ledger is not None
    assert str(key) not in json.dumps([kept, made.ledger.to_json()])
    assert not any((tensor == key).any() for tensor in made.state().values())


@pytest.mark.parametrize(("name", "is_random"), [("logreg", False), ("cnn", True)])
def test_a_classifier_that_drops_out_draws_its_masks_in_secret(name: str, is_random: bool) -> None:
    data = tiny.images(16)
    # Every image in every batch, and hardly any noise: masks of the dropout are all that may differ.
    plan = tiny.plan(sigma=1e-6, dataset_size=16, expected_batch_size=16, steps=2)

    def trained() -> torch.Tensor:
        shape = tuple(data.images.shape[1:])
        generator = torch.Generator().manual_seed(0)
        model = build_classifier(name, shape, len(data.classes), generator)
        train_privately(model, data.images, data.labels, plan, SilentProgress())
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    one, two = trained(), trained()
    difference = float((one - two).norm() / one.norm())
    assert (difference > 1e-4) == is_random, difference


@pytest.mark.parametrize(("sigma", "is_random"), [(1e-6, False), (1.0, True)])
def test_a_classifier_of_scattering_draws_batches_and_noise_in_secret_and_nothing_else(
    sigma: float, is_random: bool
) -> None:
    data = tiny.images(16)
    plan = tiny.plan(sigma=sigma, dataset_size=16, expected_batch_size=16, steps=2)

    def trained() -> torch.Tensor:
        torch.manual_seed(0)
        model = scattering_classifier.train_privately(
            data.images, data.labels, len(data.classes), Ledger(plan)
        )
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    one, two = trained(), trained()
    difference = float((one - two).norm() / one.norm())
    assert (difference > 1e-4) == is_random, difference
