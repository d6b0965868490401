"""Accuracies on real images of classifiers that were trained on synthetic ones, and what is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.class_folders import write_classes
from torch import Tensor, nn

from dpdm_cli.data import load_images
from dpdm_cli.errors import DataError, UsageError
from dpdm_cli.evaluation import classification
from dpdm_cli.evaluation.classification import classify
from dpdm_cli.evaluation.private_classifiers import (
    private_classifier,
)
from dpdm_cli.reporter import SilentReporter


class Listener(SilentReporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


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
