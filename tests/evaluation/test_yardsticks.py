"""What scores are compared with: accuracies with the classes' shares, distances with those of real images alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dpdm_cli.commands.app import app
from dpdm_cli.data import load_images
from dpdm_cli.errors import DataError
from dpdm_cli.evaluation import scoring
from dpdm_cli.evaluation.class_scores import Baseline, ClassifyResult, Score
from dpdm_cli.evaluation.classification import classify
from dpdm_cli.evaluation.distances.frechet import FeatureStatistics, frechet_distance
from dpdm_cli.reporter import SilentReporter

LAZY = Score(accuracy=90.0, confusion=[[90, 0, 0], [8, 0, 0], [2, 0, 0]])
"""Always names the first class."""


class Listener(SilentReporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def command(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "120"})
    return result.exit_code, result.stdout, result.stderr


def write_classes(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Class i is a bright bar in row i."""
    rng = np.random.default_rng(seed)
    for label, (name, n) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 80, (8, 8), dtype=np.uint8)
            pixels[label] = 255
            Image.fromarray(pixels).save(folder / name / f"{i:03}.png")
    return folder


def test_a_classifier_that_names_the_largest_class_alone_shows_as_no_better_than_that() -> None:
    result = ClassifyResult("here", 100, ("well", "ill", "odd"), 30, {"mlp": LAZY})
    assert LAZY.recalls == (100.0, 0.0, 0.0)
    assert LAZY.balanced_accuracy == pytest.approx(100 / 3)
    assert (result.majority.name, result.majority.share) == ("well", 90.0)
    assert result.majority.balanced_accuracy == pytest.approx(LAZY.balanced_accuracy)
    assert result.test_counts == (90, 8, 2)


def test_a_class_without_test_images_has_no_recall_and_no_weight() -> None:
    score = Score(accuracy=75.0, confusion=[[2, 1, 0], [0, 1, 0], [0, 0, 0]])
    assert score.recalls == (pytest.approx(200 / 3), 100.0, None)
    assert score.balanced_accuracy == pytest.approx(250 / 3)
    values = ClassifyResult("here", 4, ("a", "b", "c"), 30, {"mlp": score}).to_dict()
    assert json.loads(json.dumps(values, allow_nan=False))["recall"]["mlp"][2] is None


def test_a_baseline_alone_is_compared_with_the_largest_class_too() -> None:
    baseline = Baseline("real", 500, {"cnn": LAZY})
    values = ClassifyResult("here", 100, ("well", "ill", "odd"), None, {}, baseline).to_dict()
    assert values["majority"]["share"] == 90.0
    assert values["baseline"]["balanced_accuracy"] == {"cnn": pytest.approx(100 / 3)}
    assert values["baseline"]["recall"] == {"cnn": [100.0, 0.0, 0.0]}


def test_table_and_json_show_recalls_and_the_largest_class_beside_accuracies(
    tmp_path: Path,
) -> None:
    write_classes(tmp_path / "synth", {"well": 40, "ill": 12})
    write_classes(tmp_path / "real" / "test", {"well": 45, "ill": 5}, seed=1)
    write_classes(tmp_path / "real" / "train", {"well": 45, "ill": 5}, seed=2)
    words = ("classify", tmp_path / "synth", "--test", tmp_path / "real", "--epochs", 1)
    words = (*words, "--baseline", "real", "--out", tmp_path / "out")
    code, out, err = command(*words)
    assert code == 0, err
    lines = [line.split() for line in out.splitlines()]
    assert ["always", "well,", "the", "most", "frequent", *["90.00"] * 3] in lines
    assert ["balanced", *["50.00"] * 3] in lines
    assert sum(line[:4] == ["recall", "of", "ill", "(5)"] for line in lines) == 2
    assert sum(line[:1] == ["balanced"] for line in lines) == 3
    for what, found in (("synthetic", 12), ("real training", 5), ("test", 5)):
        assert f"fewer than 30 {what} images of ill ({found}):" in err
    values = json.loads(command(*words, "--json")[1])
    assert (values["classes"], values["test_counts"]) == (["ill", "well"], [5, 45])
    for name in ("logreg", "mlp", "cnn"):
        recalls = values["recall"][name]
        assert values["balanced_accuracy"][name] == pytest.approx(sum(recalls) / 2)
        assert values[name] == pytest.approx(0.1 * recalls[0] + 0.9 * recalls[1])


def test_of_many_classes_the_worst_recalls_are_shown(tmp_path: Path) -> None:
    names = {f"c{i:02}": 3 for i in range(24)}
    for place in ("synth", "real"):
        write_classes(tmp_path / place, dict.fromkeys([*names][:8], 3))
        for name in [*names][8:]:
            (tmp_path / place / name).mkdir()
            for i in range(3):
                pixels = np.full((8, 8), 10 * i, np.uint8)
                Image.fromarray(pixels).save(tmp_path / place / name / f"{i}.png")
    words = ("classify", tmp_path / "synth", "--test", tmp_path / "real", "--epochs", 1)
    code, out, err = command(*words, "--model", "logreg", "--out", tmp_path / "out")
    assert code == 0, err
    assert out.count("recall of") == 20
    assert "the 20 least recognised of 24 classes" in out
    assert "c19 (3), ...:" in err


def measured(synth: Path | str, real: Path | str, **options: Any) -> scoring.FidResult:
    return scoring.fid(synth, real, extractor="pixels", keep=False, **options)


def test_the_yardstick_is_the_distance_of_two_disjoint_parts_of_the_real_images(
    tmp_path: Path,
) -> None:
    synth = write_classes(tmp_path / "synth", {"a": 20, "b": 20})
    found = measured(synth, "digits", split="train").scores["train"].yardstick
    assert found is not None
    assert found.n == 40
    real = load_images("digits").images.flatten(1) / 255.0
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
    parts = (FeatureStatistics.of(real[order[i : i + 40]]) for i in (0, 40))
    assert found.fid == pytest.approx(frechet_distance(*parts), rel=1e-6)
    assert measured("digits", "digits", split="train").scores["train"].yardstick.n == 719  # type: ignore[union-attr]


def test_real_images_are_as_far_from_real_ones_as_the_yardstick_says(tmp_path: Path) -> None:
    """Of the same number: a set that is real scores about the yardstick, and noise far above it."""
    real = load_images("digits")
    names = {}
    for name, images in (
        ("real", real.images[:300]),
        ("noise", torch.randint(0, 256, (300, 1, 8, 8), dtype=torch.uint8)),
    ):
        names[name] = tmp_path / f"{name}.npz"
        np.savez(names[name], images=images[:, 0].numpy())
    one = measured(names["real"], "digits", split="test").scores["test"]
    other = measured(names["noise"], "digits", split="test").scores["test"]
    assert one.yardstick == other.yardstick
    assert one.yardstick is not None
    assert one.fid < 3 * one.yardstick.fid < other.fid


def test_fewer_than_four_real_images_have_no_halves(tmp_path: Path) -> None:
    synth = write_classes(tmp_path / "synth", {"a": 4})
    real = write_classes(tmp_path / "real", {"a": 3})
    result = measured(synth, real)
    assert result.scores["all"].yardstick is None
    assert result.to_dict()["yardstick"] == {"all": None}


def test_each_class_is_compared_with_its_own_real_images(tmp_path: Path) -> None:
    """Whatever the order of the classes is on either side; the distance of all stays what it was."""
    synth = write_classes(tmp_path / "synth", {"a": 8, "b": 6})
    real = write_classes(tmp_path / "real", {"b": 10, "a": 12}, seed=1)  # bars the other way round
    listener = Listener()
    whole, score = (
        measured(synth, real, by_class=by_class, reporter=listener).scores["all"]
        for by_class in (False, True)
    )
    assert score.fid == pytest.approx(whole.fid, rel=1e-9)
    assert score.yardstick is not None
    assert whole.yardstick is not None
    assert score.yardstick.fid == pytest.approx(whole.yardstick.fid, rel=1e-9)
    assert set(score.classes) == {"a", "b"}
    for name, found in score.classes.items():
        alone = []
        for folder in (synth, real):
            images = load_images(folder)
            assert images.labels is not None
            chosen = images.labels == images.classes.index(name)
            alone.append(FeatureStatistics.of(images.images[chosen].flatten(1) / 255.0))
        assert found.fid == pytest.approx(frechet_distance(*alone), rel=1e-6)
        assert (found.n, found.reference_n) == (alone[0].count, alone[1].count)
        assert found.yardstick is not None
        assert found.yardstick.n == min(found.n, found.reference_n // 2)
    code, out, err = command(
        *("fid", synth, "--against", real, "--extractor", "pixels", "--no-cache", "--by-class")
    )
    assert code == 0, err
    rows = [line.split() for line in out.splitlines()]
    assert [row[-1] for row in rows if row[:2] == ["Fréchet", "distance"] and "of" in row] == [
        f"{score.classes[name].fid:.4g}" for name in ("a", "b")
    ]
    assert sum(row[:4] == ["of", "real", "from", "real"] for row in rows) == 3


def test_classes_that_one_side_lacks_are_named_or_refused(tmp_path: Path) -> None:
    synth = write_classes(tmp_path / "synth", {"a": 4, "b": 4})
    listener = Listener()
    real = write_classes(tmp_path / "real", {"b": 4, "c": 4})
    result = measured(synth, real, by_class=True, reporter=listener)
    assert set(result.scores["all"].classes) == {"b"}
    assert any("no distance by class" in text and "a, c" in text for text in listener.warnings)
    others = write_classes(tmp_path / "others", {"x": 4, "y": 4})
    with pytest.raises(DataError, match="no class has two images on both sides"):
        measured(synth, others, by_class=True)
    with pytest.raises(DataError, match="has no classes to compare"):
        measured(synth / "a", real, by_class=True)


def test_accuracies_of_equal_classes_are_their_balanced_ones(tmp_path: Path) -> None:
    synth = write_classes(tmp_path / "synth", {"a": 30, "b": 30})
    real = write_classes(tmp_path / "real", {"a": 30, "b": 30}, seed=1)
    listener = Listener()
    result = classify(synth, test=real, models=["logreg"], epochs=2, reporter=listener)
    score = result.scores["logreg"]
    assert score.accuracy == pytest.approx(score.balanced_accuracy)
    assert not any("fewer than" in text for text in listener.warnings)
