from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from support import tiny
from torch import Tensor, nn

from dpdm_cli.errors import DataError, PrivacyError
from dpdm_cli.evaluation.features.scattering import Scattering
from dpdm_cli.evaluation.private_classifiers import scattering_classifier
from dpdm_cli.evaluation.private_classifiers.private_descent import noise_walk
from dpdm_cli.evaluation.private_classifiers.scattering_classifier import (
    ScatteringClassifier,
    learning_rate,
    plan_for,
    train_privately,
)
from dpdm_cli.privacy.accounting.claims import claim
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.reporter import SilentProgress, SilentReporter

CPU = torch.device("cpu")
SHAPES = [(1, 8, 8), (3, 9, 12)]


def small_plan(**changes: Any) -> PrivacyPlan:
    fields: dict[str, Any] = {
        "dataset_size": 60,
        "expected_batch_size": 20.0,
        "steps": 4,
        "sigma": 1.0,
        "delta": 1e-4,
        "clip_norm": 0.1,
    }
    return PrivacyPlan(**{**fields, **changes})


def random_images(n: int = 60, shape: tuple[int, int, int] = (1, 8, 8)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator)


def random_labels(n: int = 60) -> Tensor:
    return torch.randint(0, 3, (n,), generator=torch.Generator().manual_seed(1))


def trained(ledger: Ledger) -> ScatteringClassifier:
    return train_privately(random_images(), random_labels(), 3, ledger)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_features_of_an_image_depend_on_no_other(shape: tuple[int, int, int]) -> None:
    images = random_images(70, shape)
    model = ScatteringClassifier(shape, 3, CPU)
    together = model.features(images)
    others = images.flip(0)
    others[5] = images[5]
    assert torch.equal(model.features(others)[5], together[5])
    for i in (0, 5, 69):
        assert torch.equal(model.features(images[i : i + 1])[0], together[i])
    assert torch.equal(model.features(images[1:]), together[1:])


@pytest.mark.parametrize("shape", SHAPES)
def test_features_are_scattering_brought_to_mean_0_and_variance_1_in_each_of_27_groups(
    shape: tuple[int, int, int],
) -> None:
    images = random_images(6, shape)
    features = ScatteringClassifier(shape, 3, CPU).features(images)
    assert features.shape[1] == 81 * shape[0] * math.ceil(shape[1] / 4) * math.ceil(shape[2] / 4)
    groups = Scattering(*shape[1:], CPU)(images).double().view(6, 27, -1)
    centred = groups - groups.mean(2, keepdim=True)
    # A group whose values hardly differ is not blown up.
    expected = centred / (centred.pow(2).mean(2, keepdim=True) + 1e-5).sqrt()
    assert tiny.relative_error(features.view(6, 27, -1), expected) < 1e-4


def test_an_image_of_one_colour_has_finite_features() -> None:
    model = ScatteringClassifier((1, 8, 8), 3, CPU)
    for level in (0, 255):
        images = torch.full((1, 1, 8, 8), level, dtype=torch.uint8)
        assert model.features(images).isfinite().all()


def test_a_trained_classifier_is_an_affine_map_of_the_features() -> None:
    model = trained(Ledger(small_plan()))
    images = random_images()
    expected = model.features(images) @ model.affine.weight.T + model.affine.bias
    assert torch.allclose(model(images), expected, atol=1e-5)
    assert not model.training
    assert set(model.state_dict()) == {"affine.weight", "affine.bias"}


def test_every_step_is_entered_in_the_ledger_and_reported() -> None:
    class Counting(SilentProgress):
        def __init__(self) -> None:
            self.count = 0

        def advance(self, count: int = 1, **fields: object) -> None:
            self.count += count

    tasks: dict[str, Counting] = {}

    class Listener(SilentReporter):
        def progress(self, title: str, total: int, unit: str, done: int = 0) -> Any:
            tasks[f"{total} {unit}"] = Counting()
            return nullcontext(tasks[f"{total} {unit}"])

    ledger = Ledger(small_plan())
    train_privately(random_images(), random_labels(), 3, ledger, Listener())
    assert (ledger.steps, ledger.releases) == (4, 4)
    assert {name: task.count for name, task in tasks.items()} == {"60 images": 60, "4 steps": 4}


def test_what_is_spent_is_spent() -> None:
    ledger = Ledger(small_plan())
    trained(ledger)
    with pytest.raises(PrivacyError, match="all 4 steps of the plan are spent"):
        trained(ledger)
    with pytest.raises(PrivacyError, match="begins with a warm start"):
        trained(Ledger(small_plan(warm_start="means", warm_sigma=5.0)))


def test_two_trainings_under_one_seed_differ_in_every_weight() -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(weights(trained(Ledger(small_plan()))))
    # The noise reaches them all, also where no image had a gradient.
    assert (found[0] != found[1]).float().mean() > 0.99


def test_empty_batches_are_steps_like_others() -> None:
    ledger = Ledger(small_plan(expected_batch_size=1e-9))
    found = weights(trained(ledger))
    assert ledger.steps == 4
    assert found.isfinite().all()
    assert found.any()


@pytest.mark.parametrize("steps", [1, 4, 5])
def test_the_result_is_the_average_of_the_weights_over_the_second_half(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    plain = scattering_classifier.descend

    def watched(model: nn.Module, *rest: Any, after_step: Any, **named: Any) -> None:
        def noting(step: int) -> None:
            seen.append(weights(model))
            after_step(step)

        plain(model, *rest, after_step=noting, **named)

    monkeypatch.setattr(scattering_classifier, "descend", watched)
    found = weights(trained(Ledger(small_plan(steps=steps))))
    assert len(seen) == steps
    assert torch.allclose(found, torch.stack(seen[steps // 2 :]).mean(0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("features", [324, 3969])
def test_the_noise_of_a_whole_training_moves_logits_by_five_at_most(features: int) -> None:
    plans = small_plan(), small_plan(sigma=9.0, steps=500), small_plan(clip_norm=1.0)
    for plan in (*plans, small_plan(sigma=0.01)):
        rate = learning_rate(plan, features)
        assert rate * noise_walk(plan) * features**0.5 <= 5.0 * (1 + 1e-9)
        assert rate * plan.clip_norm <= 2.4 * (1 + 1e-9)


@pytest.mark.parametrize("size", [10, 300, 1438, 60_000])
@pytest.mark.parametrize("epsilon", [0.5, 10.0])
def test_the_plan_fits_sets_of_every_size(size: int, epsilon: float) -> None:
    plan = plan_for(epsilon, 1e-6, size)
    assert plan.expected_batch_size <= size
    assert claim(plan).epsilon <= epsilon
    assert plan_for(epsilon, 1e-6, size) == plan


def test_images_that_are_too_small_and_a_single_class_are_refused() -> None:
    with pytest.raises(DataError, match="too small for wavelet scattering"):
        train_privately(random_images(9, (1, 7, 8)), random_labels(9), 3, Ledger(small_plan()))
    with pytest.raises(DataError, match="at least 2 classes"):
        train_privately(random_images(), random_labels(), 1, Ledger(small_plan()))
