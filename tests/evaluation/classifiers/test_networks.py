from __future__ import annotations

import os

import pytest
import torch

from dpdm_cli.errors import DataError, UsageError
from dpdm_cli.evaluation.classifiers import networks as classifiers
from dpdm_cli.evaluation.classifiers.networks import (
    CLASSIFIERS,
    Dropout,
    accuracy,
    build_classifier,
    confusion_matrix,
    fit,
    hold_out,
    predict,
    to_inputs,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bright_and_dark(n: int, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes that any classifier can tell apart."""
    g = seeded(5)
    labels = torch.randint(0, 2, (n,), generator=g)
    noise = torch.randint(0, 60, (n, 1, size, size), generator=g)
    return (noise + 150 * labels[:, None, None, None]).to(torch.uint8), labels


@pytest.mark.parametrize(("name", "size"), [("logreg", 7_850), ("mlp", 79_510), ("cnn", 241_546)])
def test_networks_have_the_papers_number_of_parameters_on_mnist(name: str, size: int) -> None:
    model = build_classifier(name, (1, 28, 28), 10, seeded())
    assert sum(p.numel() for p in model.parameters()) == size


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 2, 5), (1, 8, 8), (1, 17, 30), (1, 18, 18), (3, 33, 33), (3, 64, 48)]
)
def test_every_size_gives_one_row_of_logits_for_each_image(
    name: str, shape: tuple[int, int, int]
) -> None:
    model = build_classifier(name, shape, 4, seeded())
    assert model(to_inputs(torch.zeros(3, *shape, dtype=torch.uint8))).shape == (3, 4)


def test_inputs_run_from_minus_one_to_one() -> None:
    assert to_inputs(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).tolist() == [[[[-1.0, 1.0]]]]


def test_weights_follow_from_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = build_classifier("cnn", (1, 8, 8), 3, seeded(9)).state_dict()
    torch.manual_seed(2)
    second = build_classifier("cnn", (1, 8, 8), 3, seeded(9)).state_dict()
    other = build_classifier("cnn", (1, 8, 8), 3, seeded(10)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_dropout_keeps_the_mean_and_drops_each_value_on_its_own() -> None:
    dropout = Dropout(0.5, seed=3)
    y = dropout(torch.ones(400, 50))
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert y.mean().item() == pytest.approx(1.0, abs=0.03)
    # Masks of two examples agree on half of their values: they are drawn for each example.
    assert (y[:-1] == y[1:]).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert torch.equal(dropout.eval()(torch.ones(4, 5)), torch.ones(4, 5))


def test_dropout_from_secret_bytes_keeps_the_mean_and_leaves_the_seed_unused() -> None:
    dropout = Dropout(0.5, seed=3)
    seeded_mask = dropout(torch.ones(40, 50))
    dropout.draw_from(os.urandom)
    first, second = dropout(torch.ones(400, 50)), dropout(torch.ones(400, 50))
    assert set(first.unique().tolist()) == {0.0, 2.0}
    assert first.mean().item() == pytest.approx(1.0, abs=0.05)
    for other in (second, torch.cat([first[1:], second[:1]]), seeded_mask.repeat(10, 1)):
        assert (first == other).float().mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("count", "held"), [(10, 1), (19, 2), (1000, 100)])
def test_a_tenth_is_held_out_and_nothing_is_lost_or_doubled(count: int, held: int) -> None:
    kept, validation = hold_out(count, seeded())
    assert len(validation) == held
    assert sorted([*kept.tolist(), *validation.tolist()]) == list(range(count))


def test_fewer_than_ten_images_are_refused() -> None:
    images, labels = bright_and_dark(9)
    with pytest.raises(DataError, match="9 images"):
        fit(build_classifier("logreg", (1, 8, 8), 2, seeded()), images, labels, generator=seeded())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_each_classifier_learns_what_can_be_learnt(name: str) -> None:
    images, labels = bright_and_dark(400)
    model = build_classifier(name, (1, 8, 8), 2, seeded())
    fit(model, images[:300], labels[:300], generator=seeded(), epochs=8, batch_size=16)
    assert accuracy(predict(model, images[300:]), labels[300:]) >= 97.0


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_training_repeats_under_the_same_seed(name: str) -> None:
    images, labels = bright_and_dark(60)
    runs = []
    for noise in range(2):
        torch.manual_seed(noise)
        g = seeded(4)
        model = build_classifier(name, (1, 8, 8), 2, g)
        fit(model, images, labels, generator=g, epochs=2)
        runs.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(runs[0], runs[1])


def test_the_best_epoch_by_validation_is_kept_and_the_earliest_of_equals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, labels = bright_and_dark(40)
    scores = iter([50.0, 80.0, 80.0, 20.0])
    monkeypatch.setattr(classifiers, "accuracy", lambda *_: next(scores))
    model = build_classifier("logreg", (1, 8, 8), 2, seeded())
    after: dict[int, torch.Tensor] = {}

    def remember(epoch: int) -> None:
        after[epoch] = model[1].weight.detach().clone()  # type: ignore[union-attr]

    result = fit(model, images, labels, generator=seeded(), epochs=4, after_epoch=remember)
    assert (result.epoch, result.validation_accuracy) == (2, 80.0)
    assert torch.equal(model[1].weight, after[2])  # type: ignore[index]
    assert not torch.equal(after[2], after[4])


def test_validation_images_are_never_trained_on() -> None:
    images, labels = bright_and_dark(40)
    _, held = hold_out(40, seeded(2))
    poisoned = images.clone()
    poisoned[held] = 255 - poisoned[held]
    weights = []
    for each in (images, poisoned):
        model = build_classifier("logreg", (1, 8, 8), 2, seeded())
        fit(model, each, labels, generator=seeded(2), epochs=1)
        weights.append(model[1].weight.detach())  # type: ignore[index]
    assert torch.equal(weights[0], weights[1])


def test_confusion_counts_rows_by_truth_and_columns_by_prediction() -> None:
    truth, predicted = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 0])
    assert confusion_matrix(predicted, truth, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert accuracy(predicted, truth) == 50.0


def test_an_unknown_classifier_and_a_single_class_are_refused() -> None:
    with pytest.raises(UsageError, match="'svm'"):
        build_classifier("svm", (1, 8, 8), 2, seeded())
    with pytest.raises(DataError, match="at least 2 classes, found 1"):
        build_classifier("mlp", (1, 8, 8), 1, seeded())
