from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dpdm_cli.data import load_images
from dpdm_cli.errors import DataError, PrivacyError, UsageError
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
from dpdm_cli.reporter import SilentProgress, SilentReporter


class Listener(SilentReporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def write_classes(folder: Path, names: list[str], n: int, seed: int = 0, size: int = 8) -> Path:
    """Class i is a bright bar in row i: easy to tell apart."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 80, (size, size), dtype=np.uint8)
            pixels[label] = 255
            Image.fromarray(pixels).save(folder / name / f"{i:03}.png")
    return folder


@pytest.fixture
def digits_as_samples(tmp_path: Path) -> Path:
    """Real digits of the training split in the place of synthetic ones."""
    real = load_images("digits", split="train")
    assert real.labels is not None
    file = tmp_path / "samples.npz"
    chosen = slice(0, 300)
    np.savez(
        file,
        images=real.images[chosen, 0].numpy(),
        labels=real.labels[chosen].numpy(),
        classes=np.array(real.classes),
    )
    return file


def test_accuracy_on_real_digits_is_far_above_chance(digits_as_samples: Path) -> None:
    result = classify(digits_as_samples, test="digits", models=("mlp",), epochs=80)
    score = result.scores["mlp"]
    assert score.accuracy >= 60.0
    assert 1 <= (score.epoch or 0) <= 80
    assert (result.n, result.test, result.test_n) == (300, "digits", 359)


def test_confusion_rows_count_the_real_classes_and_its_diagonal_is_the_accuracy(
    digits_as_samples: Path,
) -> None:
    score = classify(digits_as_samples, test="digits", models=("mlp",), epochs=2).scores["mlp"]
    counts = torch.tensor(score.confusion)
    labels = load_images("digits", split="test").labels
    assert labels is not None
    assert counts.sum(dim=1).tolist() == torch.bincount(labels, minlength=10).tolist()
    assert score.accuracy == pytest.approx(100 * counts.trace().item() / len(labels))


def test_the_real_test_images_are_classified_once_for_each_classifier_and_only_after_training(
    digits_as_samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    plain_predict, plain_fit = classification.predict, classification.fit

    def counting_predict(model: nn.Module, images: Tensor, **how: Any) -> Tensor:
        assert len(images) == 359
        seen.append("test")
        return plain_predict(model, images, **how)

    def noting_fit(model: nn.Module, images: Tensor, *rest: object, **options: object) -> object:
        assert len(images) == 300
        result = plain_fit(model, images, *rest, **options)  # type: ignore[arg-type]
        seen.append("trained")
        return result

    monkeypatch.setattr(classification, "predict", counting_predict)
    monkeypatch.setattr(classification, "fit", noting_fit)
    classify(digits_as_samples, test="digits", epochs=1)
    assert seen == ["trained", "test"] * 3


def test_no_score_depends_on_the_test_images_of_another_kind(
    digits_as_samples: Path, tmp_path: Path
) -> None:
    """The chosen epoch and its validation accuracy are the same whatever is tested on."""
    other = write_classes(tmp_path / "other", [str(i) for i in range(8)], 2)
    for name in ("8", "9"):
        write_classes(other, [name], 2)
    one = classify(digits_as_samples, test="digits", models=("mlp",), epochs=4).scores["mlp"]
    two = classify(digits_as_samples, test=other, models=("mlp",), epochs=4).scores["mlp"]
    assert (one.epoch, one.validation_accuracy) == (two.epoch, two.validation_accuracy)
    assert one.accuracy != two.accuracy


def test_scores_repeat_under_a_seed_and_do_not_depend_on_the_other_classifiers(
    digits_as_samples: Path,
) -> None:
    def run(models: tuple[str, ...], seed: int) -> object:
        result = classify(digits_as_samples, test="digits", models=models, epochs=3, seed=seed)
        return result.scores["mlp"]

    assert run(("mlp",), 1) == run(("logreg", "mlp"), 1)
    assert run(("mlp",), 1) != run(("mlp",), 2)


def test_the_data_set_in_the_samples_metadata_is_the_test_set(digits_as_samples: Path) -> None:
    with pytest.raises(UsageError, match="which real images to test on"):
        classify(digits_as_samples, models=("logreg",), epochs=1)
    metadata = digits_as_samples.with_name("metadata.json")
    metadata.write_text(json.dumps({"dataset": "digits"}))
    assert classify(digits_as_samples, models=("logreg",), epochs=1).test == "digits"


def test_metadata_inside_a_zip_is_read(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "samples", [str(i) for i in range(8)], 4)
    (folder / "metadata.json").write_text(json.dumps({"dataset": "digits"}))
    archive = tmp_path / "samples.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for file in folder.rglob("*.*"):
            target.write(file, file.relative_to(folder))
    for source in (folder, archive):
        assert classify(source, models=("logreg",), epochs=1).test_n == 359


def test_images_of_ones_own_are_tested_on_their_test_split_at_the_samples_size(
    tmp_path: Path,
) -> None:
    names = ["left", "right", "up"]
    synth = write_classes(tmp_path / "synth", names, 40, seed=1, size=8)
    real = tmp_path / "real"
    write_classes(real / "train", names, 30, seed=2, size=16)
    write_classes(real / "test", names, 5, seed=3, size=16)
    result = classify(synth, test=real, models=("logreg",), epochs=3, baseline="real")
    assert (result.classes, result.test_n, result.n) == (("left", "right", "up"), 15, 120)
    assert result.baseline is not None
    assert result.baseline.n == 90


def test_limit_draws_from_all_classes(digits_as_samples: Path) -> None:
    result = classify(digits_as_samples, test="digits", models=("logreg",), epochs=1, limit=50)
    assert result.n == 50
    folder_like = load_images(digits_as_samples)
    assert folder_like.labels is not None
    ordered = folder_like.labels.sort()
    images = classification.ImageSet(
        "x", folder_like.images[ordered.indices], ordered.values, folder_like.classes
    )
    labels = classification._limited(images, 60, 0).labels
    assert labels is not None
    assert len(labels.unique()) == 10


def test_the_real_baseline_needs_no_samples_and_is_called_not_private() -> None:
    listener = Listener()
    result = classify(
        None, test="digits", models=("mlp",), baseline="real", epochs=20, reporter=listener
    )
    assert result.baseline is not None
    assert (result.baseline.n, result.scores, result.n) == (1438, {}, None)
    assert result.baseline.scores["mlp"].accuracy >= 80.0
    assert any("NOT PRIVATE" in text for text in listener.warnings)


def test_scores_are_warned_of_as_not_covered(digits_as_samples: Path) -> None:
    listener = Listener()
    classify(digits_as_samples, test="digits", models=("logreg",), epochs=1, reporter=listener)
    assert any("not covered by the samples' privacy claim" in text for text in listener.warnings)


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


def test_classifiers_are_named_for_what_has_a_choice_of_them() -> None:
    options: dict[str, Any] = {"test": "digits", "baseline": "scattering", "epsilon": 8.0}
    with pytest.raises(UsageError, match="--model is not for --baseline scattering"):
        classify(None, models=("mlp",), **options)
    with pytest.raises(UsageError, match="--limit is not for --baseline scattering"):
        classify(None, limit=10, **options)


def test_images_too_small_for_scattering_are_the_transforms_to_refuse(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_classes(tmp_path / split, ["a", "b"], 6, size=7)
    with pytest.raises(DataError, match="7x7 pixels are too small for wavelet scattering"):
        classify(None, test=tmp_path, baseline="scattering", epsilon=8.0, dataset_size=12)


def test_a_limit_is_for_the_samples_and_refused_where_only_the_private_baseline_is_trained(
    digits_as_samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def counting(model: nn.Module, images: Tensor, *rest: object) -> None:
        seen.append(len(images))

    monkeypatch.setattr(private_classifier, "train_privately", counting)
    options = {"test": "digits", "models": ("logreg",), "baseline": "dp-sgd", "epsilon": 8.0}
    with pytest.raises(UsageError, match="--limit is not for --baseline dp-sgd"):
        classify(None, limit=100, **options)  # type: ignore[arg-type]
    assert seen == []
    result = classify(digits_as_samples, limit=100, epochs=1, **options)  # type: ignore[arg-type]
    assert (result.n, seen) == (100, [1438])


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

        def advance(self, count: int = 1, **fields: str) -> None:
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


def test_misuse_is_refused(digits_as_samples: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to train on"):
        classify(None, test="digits")
    with pytest.raises(UsageError, match="nothing is trained privately"):
        classify(digits_as_samples, test="digits", epsilon=1.0)
    with pytest.raises(UsageError, match="'svm'"):
        classify(digits_as_samples, test="digits", models=("svm",))
    with pytest.raises(UsageError, match="unknown baseline"):
        classify(digits_as_samples, test="digits", baseline="fake")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least 1"):
        classify(digits_as_samples, test="digits", epochs=0)
    undivided = write_classes(tmp_path / "real", ["a", "b"], 3)
    with pytest.raises(UsageError, match="is not divided"):
        classify(None, test=undivided, baseline="real")


def test_samples_of_other_classes_or_without_any_are_refused(tmp_path: Path) -> None:
    other = write_classes(tmp_path / "other", ["cat", "dog"], 12)
    with pytest.raises(DataError, match="not among the 10 declared classes"):
        classify(other, test="digits", epochs=1)
    with pytest.raises(DataError, match="classes"):
        classify(other / "cat", test="digits", epochs=1)
    with pytest.raises(DataError, match="no classes to distinguish"):
        classify(other, test="celeba", epochs=1)


def test_the_picture_has_a_panel_for_each_classifier_and_row_of_the_table(
    digits_as_samples: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "private"
    classify(digits_as_samples, test="digits", models=("mlp",), epochs=1, out=out)
    classify(
        digits_as_samples,
        test="digits",
        models=("mlp", "logreg"),
        baseline="real",
        epochs=1,
        out=tmp_path,
    )
    one, four = Image.open(out / "confusion.png"), Image.open(tmp_path / "confusion.png")
    assert four.size == (2 * one.width, 2 * one.height)


def test_json_holds_accuracies_under_the_classifiers_names(digits_as_samples: Path) -> None:
    result = classify(
        digits_as_samples, test="digits", models=("logreg", "mlp"), baseline="real", epochs=1
    )
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["mlp"] == result.scores["mlp"].accuracy
    assert values["n"] == 300
    assert values["baseline"]["kind"] == "real"
    assert values["baseline"]["mlp"] == result.baseline.scores["mlp"].accuracy  # type: ignore[union-attr]
    assert set(values["confusion"]) == {"logreg", "mlp"}


def test_the_noise_of_a_whole_private_training_moves_weights_by_a_tenth_at_most() -> None:
    for plan in (small_plan(), small_plan(sigma=9.0, steps=500), small_plan(clip_norm=0.1)):
        one_step = private_classifier.learning_rate(plan) * plan.sigma * plan.clip_norm / 20.0
        assert one_step / (1.0 - private_descent.MOMENTUM) * plan.steps**0.5 <= 0.1 + 1e-12


@pytest.mark.parametrize("size", [10, 1438, 60_000])
def test_the_private_plan_fits_sets_of_every_size(size: int) -> None:
    plan = private_classifier.plan_for(10.0, 1e-6, size)
    assert plan.expected_batch_size <= size
    assert claim(plan).epsilon <= 10.0


def test_a_stated_class_that_no_test_image_is_of_is_told_apart_all_the_same(tmp_path: Path) -> None:
    names = ["cat", "dog", "mouse"]
    synth = write_classes(tmp_path / "synth", names, 10)
    (synth / "metadata.json").write_text(json.dumps({"classes": names}))
    real = write_classes(tmp_path / "real", names[:2], 6, seed=1)
    result = classify(synth, test=real, models=("logreg",), epochs=2)
    rows = torch.tensor(result.scores["logreg"].confusion).sum(dim=1)
    assert rows.tolist() == [6, 6, 0]
    (synth / "metadata.json").write_text(json.dumps({"classes": ["cat", "mouse"]}))
    with pytest.raises(DataError, match="mouse"):
        classify(synth, test=real, models=("logreg",), epochs=2)
