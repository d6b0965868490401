"""Private classifiers of the real images spend no more than asked, and choose nothing on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.class_folders import write_classes
from torch import Tensor, nn

from dpdm_cli.errors import PrivacyError, UsageError
from dpdm_cli.evaluation import classification
from dpdm_cli.evaluation.classification import classify
from dpdm_cli.evaluation.private_classifiers import (
    private_classifier,
    private_descent,
    scattering_classifier,
)
from dpdm_cli.privacy.accounting.claims import claim
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.reporter import SilentProgress


def test_the_private_baseline_spends_no_more_than_asked_and_learns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plans: list[PrivacyPlan] = []
    plain = private_classifier.train_privately

    def noting(
        model: nn.Module, images: Tensor, labels: Tensor, plan: PrivacyPlan, p: object
    ) -> None:
        assert len(images) == 1438
        plans.append(plan)
        plain(model, images, labels, plan, p)  # type: ignore[arg-type]

    monkeypatch.setattr(private_classifier, "train_privately", noting)
    result = classify(
        None, test="digits", models=("logreg",), baseline="dp-sgd", epsilon=8.0, delta=1e-4
    )
    assert result.baseline is not None
    assert result.baseline.privacy is not None
    (plan,) = plans
    assert result.baseline.privacy.plan == plan
    assert claim(plan).epsilon == result.baseline.privacy.claim.epsilon <= 8.0
    assert (plan.delta, plan.dataset_size) == (1e-4, 1438)
    score = result.baseline.scores["logreg"]
    assert score.accuracy >= 60.0
    assert score.epoch is score.validation_accuracy is None


def test_the_private_baseline_takes_all_images_and_chooses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*args: object, **options: object) -> None:
        raise AssertionError("no epoch may be chosen on private images")

    seen: list[int] = []

    def counting(model: nn.Module, images: Tensor, *rest: object) -> None:
        seen.append(len(images))

    monkeypatch.setattr(classification, "fit", refused)
    monkeypatch.setattr(private_classifier, "train_privately", counting)
    classify(None, test="digits", models=("logreg",), baseline="dp-sgd", epsilon=8.0, seed=3)
    assert seen == [1438]


def test_the_classifier_of_scattering_features_spends_no_more_than_asked_and_learns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledgers: list[Ledger] = []
    plain = scattering_classifier.train_privately

    def noting(images: Tensor, labels: Tensor, classes: int, ledger: Ledger, *rest: Any) -> Any:
        assert (len(images), classes, ledger.releases) == (1438, 10, 0)
        ledgers.append(ledger)
        return plain(images, labels, classes, ledger, *rest)

    monkeypatch.setattr(scattering_classifier, "train_privately", noting)
    result = classify(None, test="digits", baseline="scattering", epsilon=8.0, delta=1e-4)
    assert result.baseline is not None
    (ledger,) = ledgers
    plan = ledger.plan
    assert ledger.steps == plan.steps
    assert (plan.delta, plan.dataset_size) == (1e-4, 1438)
    assert claim(plan).epsilon <= 8.0
    assert result.baseline.privacy.to_dict() == {
        **claim(plan).to_dict(),
        "delta": 1e-4,
        "scope": "one classifier; those trained on the same images compose",
        "plan": plan.to_dict(),
    }
    assert (result.baseline.kind, result.baseline.n) == ("scattering", 1438)
    (score,) = result.baseline.scores.values()
    assert score.accuracy >= 90.0
    assert score.epoch is score.validation_accuracy is None


def test_the_classifier_of_scattering_features_stands_beside_the_three(
    digits_as_samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untrained(images: Tensor, labels: Tensor, classes: int, *rest: object) -> nn.Module:
        shape = images.shape[1:]
        return scattering_classifier.ScatteringClassifier(shape, classes, images.device)

    monkeypatch.setattr(scattering_classifier, "train_privately", untrained)
    options: dict[str, Any] = {"test": "digits", "baseline": "scattering", "epsilon": 8.0}
    result = classify(
        digits_as_samples, epochs=1, models=("mlp", "logreg"), out=tmp_path, **options
    )
    alone = classify(None, out=tmp_path / "alone", **options)
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["baseline"]["kind"] == "scattering"
    assert set(values["baseline"]["confusion"]) == {"scattering"}
    assert values["baseline"]["scattering"] == alone.to_dict()["baseline"]["scattering"]
    both, one = (Image.open(f / "confusion.png") for f in (tmp_path, tmp_path / "alone"))
    assert both.size == (2 * one.width, 2 * one.height)


def small_plan(**changes: float) -> PrivacyPlan:
    fields: dict[str, float] = {
        "dataset_size": 60,
        "expected_batch_size": 20.0,
        "steps": 4,
        "sigma": 1.0,
        "delta": 1e-4,
    }
    return PrivacyPlan(**{**fields, **changes})  # type: ignore[arg-type]


def random_images(n: int = 60) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=g)
    return images, torch.randint(0, 3, (n,), generator=g)


@pytest.mark.parametrize("name", ["logreg", "mlp", "cnn"])
def test_every_classifier_goes_through_all_steps_of_its_plan(name: str) -> None:
    class Counting(SilentProgress):
        steps = 0

        def advance(self, count: int = 1, **fields: object) -> None:
            self.steps += count

    progress = Counting()
    model = classification.build_classifier(name, (1, 8, 8), 3, torch.Generator().manual_seed(0))
    before = [p.detach().clone() for p in model.parameters()]
    private_classifier.train_privately(model, *random_images(), small_plan(), progress)
    assert progress.steps == 4
    # The noise reaches every value of every parameter, also where no image had a gradient.
    for old, new in zip(before, model.parameters(), strict=True):
        assert (old != new).float().mean() > 0.99


def test_two_private_runs_under_one_seed_differ() -> None:
    weights = []
    for _ in range(2):
        model = classification.build_classifier(
            "logreg", (1, 8, 8), 3, torch.Generator().manual_seed(0)
        )
        private_classifier.train_privately(model, *random_images(), small_plan(), SilentProgress())
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert not torch.equal(weights[0], weights[1])


def test_empty_batches_are_steps_like_others() -> None:
    model = classification.build_classifier(
        "logreg", (1, 8, 8), 3, torch.Generator().manual_seed(0)
    )
    plan = small_plan(expected_batch_size=1e-9)
    before = model[1].weight.detach().clone()  # type: ignore[index]
    private_classifier.train_privately(model, *random_images(), plan, SilentProgress())
    assert model[1].weight.isfinite().all()  # type: ignore[index]
    assert not torch.equal(model[1].weight, before)  # type: ignore[index]


def test_the_samples_own_epsilon_is_the_default_of_the_private_baseline(
    digits_as_samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, float, int]] = []

    def plan_for(epsilon: float, delta: float, size: int) -> PrivacyPlan:
        asked.append((epsilon, delta, size))
        raise PrivacyError("stop here")

    monkeypatch.setattr(private_classifier, "plan_for", plan_for)
    metadata = digits_as_samples.with_name("metadata.json")
    statement = {"epsilon": 3.5, "delta": 2e-5}
    metadata.write_text(json.dumps({"dataset": "digits", "statement": statement}))
    options = {"models": ("logreg",), "baseline": "dp-sgd", "epochs": 1}
    for more in ({}, {"epsilon": 1.0, "delta": 1e-6}):
        with pytest.raises(PrivacyError, match="stop here"):
            classify(digits_as_samples, **options, **more)  # type: ignore[arg-type]
    assert asked == [(3.5, 2e-5, 1438), (1.0, 1e-6, 1438)]


@pytest.mark.parametrize("baseline", ["dp-sgd", "scattering"])
def test_a_private_baseline_needs_an_epsilon_and_a_public_size(
    baseline: Any, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"{baseline} needs an epsilon"):
        classify(None, test="digits", baseline=baseline)
    for split in ("train", "test"):
        write_classes(tmp_path / "real" / split, ["a", "b"], 3)
    with pytest.raises(UsageError, match=f"{baseline} needs the public number of training images"):
        classify(None, test=tmp_path / "real", baseline=baseline, epsilon=1.0)


def test_the_noise_of_a_whole_private_training_moves_weights_by_a_tenth_at_most() -> None:
    for plan in (small_plan(), small_plan(sigma=9.0, steps=500), small_plan(clip_norm=0.1)):
        one_step = private_classifier.learning_rate(plan) * plan.sigma * plan.clip_norm / 20.0
        assert one_step / (1.0 - private_descent.MOMENTUM) * plan.steps**0.5 <= 0.1 + 1e-12


@pytest.mark.parametrize("size", [10, 1438, 60_000])
def test_the_private_plan_fits_sets_of_every_size(size: int) -> None:
    plan = private_classifier.plan_for(10.0, 1e-6, size)
    assert plan.expected_batch_size <= size
    assert claim(plan).epsilon <= 10.0
