"""The result of `dpdm classify` as values, as JSON and as a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from dpdm_cli.evaluation.classifiers.confusion import Panel, draw_confusions
from dpdm_cli.evaluation.classifiers.networks import CLASSIFIERS
from dpdm_cli.files import disk_errors, private_folder, replacing
from dpdm_cli.privacy.accounting.claims import Claim
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.stored import Json

SCATTERING = "scattering"
TITLES = {**CLASSIFIERS, SCATTERING: "linear classifier"}
"""Display names of all that may have a score."""


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
class Spent:
    """What one classifier has spent, under which plan."""

    plan: PrivacyPlan
    claim: Claim

    def to_dict(self) -> Json:
        """For JSON."""
        return {
            **self.claim.to_dict(),
            "delta": self.plan.delta,
            "scope": "one classifier; those trained on the same images compose",
            "plan": self.plan.to_dict(),
        }


@dataclass(frozen=True)
class Baseline:
    """Classifiers trained on the real images: the same ones, or a scattering classifier.

    Attributes:
        kind: `real` (not private), `dp-sgd` or `scattering`.
        n: real training images; the public number where the training is private.
        scores: by classifier; that of `scattering` under this name.
        privacy: what one classifier has spent; None for `real`.
    """

    kind: str
    n: int
    scores: dict[str, Score]
    privacy: Spent | None = None

    def to_dict(self) -> Json:
        """For JSON."""
        privacy = None if self.privacy is None else self.privacy.to_dict()
        return {"kind": self.kind, "n": self.n, **_figures(self.scores), "privacy": privacy}


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

    def to_dict(self) -> Json:
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
        ResourceError: the file cannot be written; no partial file is left.
    """
    named = [("synthetic", result.scores)] if result.scores else []
    if result.baseline is not None:
        named.append((result.baseline.kind, result.baseline.scores))
    rows = [
        [
            Panel(
                f"{TITLES[name]}\n{what}: {score.accuracy:.1f} %",
                torch.tensor(score.confusion),
            )
            for name, score in scores.items()
        ]
        for what, scores in named
    ]
    figure = draw_confusions(rows, result.classes)
    with disk_errors(file, "free some space, or choose another folder with --out"):
        is_private = file.parent.name == "private"
        if is_private:
            private_folder(file.parent)
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.touch(0o600 if is_private else 0o666)
            figure.savefig(temporary, format="png")


def _figures(scores: dict[str, Score]) -> Json:
    def by_model(value: Callable[[Score], object]) -> Json:
        return {name: value(score) for name, score in scores.items()}

    return {
        **by_model(lambda score: score.accuracy),
        "epoch": by_model(lambda score: score.epoch),
        "validation": by_model(lambda score: score.validation_accuracy),
        "confusion": by_model(lambda score: score.confusion),
    }
