"""Guarantees of the step that training really takes: the trainer's own losses, clip, noise and ledger."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import tiny
from support.processes_launcher import launch
from torch import Tensor

from dpdm_cli.checkpoint import read_tensors, write_tensors
from dpdm_cli.data import ImageSet
from dpdm_cli.privacy import noise
from dpdm_cli.privacy.clipping import clipped_sum
from dpdm_cli.privacy.gradients.per_example import PerExampleGradients
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.training.config.settings import TrainSettings
from dpdm_cli.training.trainer import Trainer

COPIES = 4


def trainer(
    images: ImageSet,
    *,
    ledger: Ledger | None = None,
    micro_batch: int = 4,
    precision: str = "float32",
    **plan: object,
) -> Trainer:
    """A trainer on given records whose layers are all off zero, and whose diffusion noise is that of any other."""
    ledger = ledger or Ledger(tiny.plan(noise_multiplicity=COPIES, **plan))
    settings = TrainSettings(
        noise_multiplicity=COPIES,
        micro_batch=micro_batch,
        precision=precision,
        warmup=0,
        learning_rate=1e-3,
    )
    made = Trainer(
        tiny.config(),
        settings,
        images,
        steps=ledger.plan.steps,
        sample_rate=ledger.plan.sample_rate,
        ledger=ledger,
        device=torch.device("cpu"),
    )
    made._denoiser.network.load_state_dict(tiny.denoiser().network.state_dict())
    made._noise_key = 0  # the same draws for a record in every trainer: what is secret, coupled
    return made


def everything(
    images: ImageSet, precision: str = "float32", records: Tensor | None = None
) -> Tensor:
    """The clipped sum of one step over given records, without noise."""
    made = trainer(images, precision=precision)
    records = torch.arange(len(images.images)) if records is None else records
    per_example = PerExampleGradients(made._denoiser.network)
    return clipped_sum(per_example(made._losses, records), 1e-2)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("removed", range(6))
def test_removing_one_record_moves_the_sum_by_at_most_the_clip_norm(
    removed: int, precision: str
) -> None:
    # Records 0-1 are ordinary, 2 black, 3 white, 4 a duplicate of 0, 5 the only one of its class.
    images = tiny.images(6)
    images.images[2], images.images[3], images.images[4] = 0, 255, images.images[0]
    images.labels[:5], images.labels[5] = images.labels[:5] % 2, 2
    others = torch.tensor([i for i in range(6) if i != removed])
    change = everything(images, precision) - everything(images, precision, others)
    assert change.norm() <= 1e-2 * (1 + 1e-4)
    assert change.norm() > 0.99e-2  # the clip bites, so the bound is met and not merely far away


def test_the_clipped_sum_does_not_depend_on_order_or_micro_batch() -> None:
    images = tiny.images(12)
    expected = everything(images)
    assert tiny.relative_error(everything(images, records=torch.randperm(12)), expected) < 1e-5
    for size in (1, 3, 7):
        parts = sum(everything(images, records=part) for part in torch.arange(12).split(size))
        assert tiny.relative_error(parts, expected) < 1e-5


@pytest.mark.parametrize("micro_batch", [1, 3, 7, 64])
def test_the_release_is_one_line_and_one_noise_draw_whatever_the_micro_batch(
    micro_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = []

    def no_noise(size: int, *_: object) -> np.ndarray:
        draws.append(size)
        return np.zeros(size)

    monkeypatch.setattr(noise, "standard_normal", no_noise)
    made = trainer(
        tiny.images(12), micro_batch=micro_batch, expected_batch_size=64, dataset_size=64
    )
    made.step()
    assert made.ledger is not None
    assert (len(draws), made.ledger.steps) == (1, 1)
    found = gradient(made)

    reference = trainer(tiny.images(12))
    per_example = PerExampleGradients(reference._denoiser.network)
    records = torch.arange(12)
    per_example.assign(clipped_sum(per_example(reference._losses, records), 1.0) / 64)
    assert (
        tiny.relative_error(found, gradient(reference)) < 1e-4
    )  # the release is rounded to a grid


def test_nothing_bypasses_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "standard_normal", lambda size, *_: np.zeros(size))
    clip, batch = 1e-9, 12
    made = trainer(tiny.images(batch), clip_norm=clip, expected_batch_size=64, dataset_size=64)
    made.step()
    for name, parameter in made._denoiser.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() <= clip * batch / 64, name
    assert any(parameter.grad.any() for parameter in made._denoiser.network.parameters())


def gradient(made: Trainer) -> Tensor:
    return torch.cat([p.grad.flatten() for p in made._denoiser.network.parameters()])


def released(made: Trainer) -> Tensor:
    made.step()
    return gradient(made)


def test_every_trainable_element_gets_noise_also_when_no_image_was_drawn() -> None:
    made = trainer(tiny.images(64), expected_batch_size=1e-3, steps=50)
    gradients = []
    for step in range(50):
        gradients.append(released(made))
        assert made.ledger is not None
        assert made.ledger.steps == step + 1
    noise = torch.stack(gradients)
    assert noise.isfinite().all()
    # The public grid has a zero that one draw in two million hits.
    assert (noise == 0).sum(0).max() <= 2


def poisoned(images: ImageSet, value: float, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """A trainer whose record 0 has a loss that is multiplied by `value`."""
    made = trainer(images, expected_batch_size=64, dataset_size=64)
    ordinary = made._losses

    def losses(indices: Tensor) -> Tensor:
        return ordinary(indices) * torch.where(indices == 0, value, 1.0)

    monkeypatch.setattr(made, "_losses", losses)
    return made


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38])
def test_a_record_with_a_loss_that_is_not_finite_counts_as_absent(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "standard_normal", lambda size, *_: np.zeros(size))
    images = tiny.images(6)
    made = poisoned(images, value, monkeypatch)
    made.step()
    reference = trainer(images)
    per_example = PerExampleGradients(reference._denoiser.network)
    others = torch.arange(1, 6)
    per_example.assign(clipped_sum(per_example(reference._losses, others), 1.0) / 64)
    assert (
        tiny.relative_error(gradient(made), gradient(reference)) < 1e-4
    )  # the release is rounded to a grid
    assert made.ledger is not None
    assert made.ledger.steps == 1


def test_noise_differs_between_steps_runs_and_two_resumptions_of_one_state() -> None:
    images = tiny.images(64)
    first = trainer(images, expected_batch_size=1e-3)
    releases = [released(first), released(first)]
    state, plan = first.state(), first.ledger.plan
    for _ in range(2):
        resumed = trainer(images, ledger=tiny.ledger(plan, 2))
        resumed.restore(state, 2)
        releases.append(released(resumed))
    releases.append(released(trainer(images, expected_batch_size=1e-3)))
    size = len(releases[0])
    correlations = np.corrcoef(torch.stack(releases).numpy())[np.triu_indices(5, 1)]
    assert abs(correlations).max() < 5.5 / math.sqrt(size)


def go_on_with(saved: Path) -> dict[str, np.ndarray]:
    """Take a state up in a process of its own, and draw. Every generator that has a seed is set."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    tensors, facts = read_tensors(saved, "state")
    images = tiny.images(64)
    plan = tiny.plan(noise_multiplicity=COPIES)
    settings = TrainSettings(noise_multiplicity=COPIES, micro_batch=64, precision="float32")
    made = Trainer(
        tiny.config(),
        settings,
        images,
        steps=plan.steps,
        sample_rate=plan.sample_rate,
        ledger=Ledger.from_json(plan, facts["ledger"]),
        device=torch.device("cpu"),
    )
    made.restore(tensors, facts["done"])
    assert made._private_step is not None
    sampler = made._private_step._sampler
    masks = np.zeros((20, 64))
    for mask in masks:
        mask[sampler.draw(64).numpy()] = 1
    losses = made._losses(torch.arange(64)).detach().numpy()
    sampler.draw = lambda records: torch.arange(0)  # type: ignore[method-assign]
    return {"masks": masks, "losses": losses, "noise": released(made).numpy()}


def test_two_processes_that_go_on_from_one_saved_state_draw_nothing_alike(tmp_path: Path) -> None:
    first = trainer(tiny.images(64))
    released(first)
    assert first.ledger is not None
    facts = {"done": 1, "ledger": first.ledger.to_json()}
    write_tensors(tmp_path / "state.safetensors", first.state(), "state", facts)
    # One after the other, so that they have all in common: what they were told, and the memory they are forked from.
    saved = tmp_path / "state.safetensors"
    one, two = (launch(1, go_on_with, saved, timeout=300.0)[0] for _ in range(2))
    assert isinstance(one, dict), one
    assert isinstance(two, dict), two
    for what, size in (("masks", 20 * 64), ("noise", len(gradient(first)))):
        assert one[what].size == size
        assert abs(np.corrcoef(one[what].ravel(), two[what].ravel())[0, 1]) < 5.5 / math.sqrt(size)
    # The noise that images are diffused with is another too.
    assert not np.isclose(one["losses"], two["losses"]).all()


def test_the_seed_fixes_the_start_and_neither_masks_nor_noise() -> None:
    images = tiny.images(64)

    def fresh() -> Trainer:
        torch.manual_seed(0)
        np.random.seed(0)
        ledger = Ledger(tiny.plan(noise_multiplicity=COPIES))
        return Trainer(
            tiny.config(),
            TrainSettings(seed=7, noise_multiplicity=COPIES),
            images,
            steps=5,
            sample_rate=ledger.plan.sample_rate,
            ledger=ledger,
            device=torch.device("cpu"),
        )

    one, two = fresh(), fresh()
    assert all(
        torch.equal(a, b) for a, b in zip(one.state().values(), two.state().values(), strict=True)
    )
    assert not torch.equal(released(one), released(two))
    masks = [tuple(made._private_step._sampler.draw(64).tolist()) for made in (one, two)]
    assert masks[0] != masks[1]


def test_a_restored_run_goes_on_with_the_same_weights_moments_and_average() -> None:
    images = tiny.images(64)
    first = trainer(images)
    first.step()
    first.step()
    second = trainer(images, ledger=tiny.ledger(first.ledger.plan, 2))
    second.restore(first.state(), 2)
    assert second.done == 2
    for name, tensor in first.state().items():
        assert torch.equal(tensor, second.state()[name]), name


def test_removing_the_only_image_of_a_class_changes_no_name_and_no_shape() -> None:
    images = tiny.images(9)
    images.labels[:] = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 2])
    fewer = replace(images, images=images.images[:-1], labels=images.labels[:-1])
    shapes = [{k: v.shape for k, v in trainer(data).state().items()} for data in (images, fewer)]
    assert shapes[0] == shapes[1]


def besides_parameters(made: Trainer) -> dict[str, Tensor]:
    """All that the denoiser, its prior and its average hold, but for the weights that the released gradients move."""
    found = {}
    for owner, whole in (("trained", made._denoiser), ("average", made.averaged)):
        for name, module in whole.named_modules():
            held = dict(module.named_buffers(recurse=False))
            held |= {key: value for key, value in vars(module).items() if torch.is_tensor(value)}
            found |= {f"{owner}.{name}.{key}": value.clone() for key, value in held.items()}
        frozen = (item for item in made._denoiser.named_parameters() if not item[1].requires_grad)
        found |= {f"{owner}.{name}": parameter.detach().clone() for name, parameter in frozen}
    return found


def test_training_changes_nothing_but_parameters() -> None:
    made = trainer(tiny.images(64), warm_start="moments", warm_sigma=0.1)
    fresh, names = besides_parameters(made), made.state().keys()
    weights = [p.detach().clone() for p in made._denoiser.network.parameters()]
    made.warm_up()
    warm = besides_parameters(made)
    # What the warm start released: the prior, and it alone.
    changed = {name for name, tensor in warm.items() if not torch.equal(tensor, fresh[name])}
    of_prior = {"means", "directions", "variances", "elsewhere"}
    assert changed == {
        f"{owner}.prior.{key}" for owner in ("trained", "average") for key in of_prior
    }
    for _ in range(5):
        made.step()
    after = besides_parameters(made)
    assert after.keys() == warm.keys() == fresh.keys()
    assert not {name for name, tensor in after.items() if not torch.equal(tensor, warm[name])}
    assert made.state().keys() == names
    for parameter, before in zip(made._denoiser.network.parameters(), weights, strict=True):
        assert not torch.equal(parameter, before)
