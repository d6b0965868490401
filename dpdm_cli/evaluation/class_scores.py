"""What `dpdm classify` has found, as values, as JSON and as a picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dpdm_cli.errors import ResourceError
from dpdm_cli.evaluation.classifiers.confusion import Panel, draw_confusions
from dpdm_cli.evaluation.classifiers.networks import CLASSIFIERS
from dpdm_cli.files import private_folder, write_bytes

SCATTERING = "scattering"
TITLES = {**CLASSIFIERS, SCATTERING: "linear classifier"}
"""Of all that may have a score, for people."""


@dataclass(frozen=True)
class Score:
    """One classifier on the real test images.

    Attributes:
        accuracy: percent of the test images.
        confusion: counts; row = true class, column = predicted class.
        epoch: the epoch that was chosen, from 1; None for the last step of a private training.
        validation_accuracy: percent of the 10 % it was chosen by; None likewise.
    """

    accuracy: float
    confusion: list[list[int]]
    epoch: int | None = None
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class Baseline:
    """Classifiers trained on the real images: the same ones, or one of its own.

    Attributes:
        kind: `real` (not private), `dp-sgd` or `scattering`.
        n: real training images; the public number where the training is private.
        scores: by classifier; that of `scattering` under this name.
        privacy: what one classifier has spent, and its plan; None for `real`.
    """

    kind: str
    n: int
    scores: dict[str, Score]
    privacy: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"kind": self.kind, "n": self.n, **_figures(self.scores), "privacy": self.privacy}


@dataclass(frozen=True)
class ClassifyResult:
    """Accuracies on the real test images.

    Attributes:
        test: the real images, as they were named.
        test_n: how many test images.
        classes: names in label order.
        n: synthetic images used, for training and validation together; None without any.
        scores: by classifier, trained on synthetic images; empty without any.
        baseline: the comparison that was asked for.
    """

    test: str
    test_n: int
    classes: tuple[str, ...]
    n: int | None
    scores: dict[str, Score]
    baseline: Baseline | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: accuracies in percent under the classifiers' names."""
        return {
            **_figures(self.scores),
            "n": self.n,
            "test": self.test,
            "test_n": self.test_n,
            "classes": list(self.classes),
            "baseline": None if self.baseline is None else self.baseline.to_dict(),
        }


def write_picture(result: ClassifyResult, file: Path) -> None:
    """Draw every confusion matrix of a result: synthetic in the first row, the baseline below.

    Raises:
        ResourceError: the file cannot be written; nothing half-written is left.
    """
    named = [("synthetic", result.scores)] if result.scores else []
    if result.baseline is not None:
        named.append((result.baseline.kind, result.baseline.scores))
    rows = [
        [
            Panel(
                f"{TITLES[name]}, {what}: {score.accuracy:.1f} %",
                torch.tensor(score.confusion),
            )
            for name, score in scores.items()
        ]
        for what, scores in named
    ]
    buffer = io.BytesIO()
    draw_confusions(rows, result.classes).save(buffer, format="PNG")
    try:
        is_private = file.parent.name == "private"
        if is_private:
            private_folder(file.parent)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, buffer.getvalue(), private=is_private)
    except OSError as error:
        raise ResourceError(
            f"{file}: cannot write the picture: {error.strerror or error}",
            "free some space, or choose another folder with --out",
        ) from error


def _figures(scores: dict[str, Score]) -> dict[str, Any]:
    def by_model(value: Callable[[Score], Any]) -> dict[str, Any]:
        return {name: value(score) for name, score in scores.items()}

    return {
        **by_model(lambda score: score.accuracy),
        "epoch": by_model(lambda score: score.epoch),
        "validation": by_model(lambda score: score.validation_accuracy),
        "confusion": by_model(lambda score: score.confusion),
    }
