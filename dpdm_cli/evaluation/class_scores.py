"""The result of `dpdm classify` as values, as JSON and as a picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dpdm_cli.evaluation.classifiers.confusion import Panel, draw_confusions
from dpdm_cli.evaluation.classifiers.networks import CLASSIFIERS
from dpdm_cli.files import disk_errors, private_folder, replacing
from dpdm_cli.privacy.accounting.claims import Claim
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.reporter import Reporter
from dpdm_cli.results import Result
from dpdm_cli.stored import Json

FEWEST = 30
"""Images of a class; the recall of one with fewer is uncertain by ten points and more (one standard error at 60 %)."""

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMED = 20  # classes

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

    @property
    def recalls(self) -> tuple[float | None, ...]:
        """Percent of each class's test images that are recognised, in label order; None for a class without any."""
        return tuple(
            100.0 * row[label] / sum(row) if sum(row) else None
            for label, row in enumerate(self.confusion)
        )

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the classes' recalls, in percent: what accuracy would be with as many test images of each class.

        A classifier that always names one class has 100 % over the number of classes, however frequent that one is.
        """
        found = [recall for recall in self.recalls if recall is not None]
        return sum(found) / len(found)


@dataclass(frozen=True)
class Majority:
    """The accuracy of always naming the most frequent class of the test images, which no image is needed for.

    Attributes:
        name: of that class, the first of equals.
        share: of the test images, in percent.
        balanced_accuracy: of such a classifier, in percent.
    """

    name: str
    share: float
    balanced_accuracy: float


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


@dataclass(frozen=True, repr=False)
class ClassifyResult(Result):
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

    @property
    def test_counts(self) -> tuple[int, ...]:
        """Test images of each class, in label order."""
        scores = self.scores or (self.baseline.scores if self.baseline else {})
        return tuple(sum(row) for row in next(iter(scores.values())).confusion)

    @property
    def majority(self) -> Majority:
        """What accuracies are to be compared with."""
        counts = self.test_counts
        most = max(counts)
        return Majority(
            name=self.classes[counts.index(most)],
            share=100.0 * most / sum(counts),
            balanced_accuracy=100.0 / sum(count > 0 for count in counts),
        )

    @property
    def summary(self) -> str:
        """One line."""
        lines = []
        if self.scores:
            lines.append(f"{self.n:,} synthetic images: {_in_short(self.scores)}")
        if self.baseline is not None:
            lines.append(f"{self.baseline.kind} baseline: {_in_short(self.baseline.scores)}")
        majority = self.majority
        lines.append(f"always {majority.name}: {majority.share:.1f} %")
        return f"accuracy on {self.test_n:,} real images of {self.test}; " + "; ".join(lines)

    def picture_png(self) -> Path | bytes | None:
        """The confusion matrices."""
        content = io.BytesIO()
        _drawn(self).savefig(content, format="png")
        return content.getvalue()

    def to_dict(self) -> Json:
        """For JSON: accuracies in percent under the classifiers' names, recalls in the order of `classes`."""
        return {
            **_figures(self.scores),
            "n": self.n,
            "test": self.test,
            "test_n": self.test_n,
            "classes": list(self.classes),
            "test_counts": list(self.test_counts),
            "majority": asdict(self.majority),
            "baseline": None if self.baseline is None else self.baseline.to_dict(),
        }


def warn_of_rare(
    reporter: Reporter, what: str, classes: Sequence[str], counts: Sequence[int]
) -> None:
    """Name the classes of which there are few images, of so many each."""
    rare = [f"{name} ({n:,})" for name, n in zip(classes, counts, strict=True) if n < FEWEST]
    if rare:
        more = ", ..." if len(rare) > _MOST_NAMED else ""
        reporter.warn(
            f"fewer than {FEWEST} {what} images of {', '.join(rare[:_MOST_NAMED])}{more}: "
            "the recall of these classes, and the balanced accuracy, may be off by ten points and more"
        )


def _in_short(scores: dict[str, Score]) -> str:
    each = (
        f"{name} {score.accuracy:.1f} % (balanced {score.balanced_accuracy:.1f} %)"
        for name, score in scores.items()
    )
    return ", ".join(each)


def _drawn(result: ClassifyResult) -> Figure:
    named = [("synthetic", result.scores)] if result.scores else []
    if result.baseline is not None:
        named.append((result.baseline.kind, result.baseline.scores))
    rows = [
        [
            Panel(
                f"{TITLES[name]}\n{what}: {score.accuracy:.1f} %\nbalanced: {score.balanced_accuracy:.1f} %",
                torch.tensor(score.confusion),
            )
            for name, score in scores.items()
        ]
        for what, scores in named
    ]
    return draw_confusions(rows, result.classes)


def write_picture(result: ClassifyResult, file: Path) -> None:
    """Draw every confusion matrix of a result: synthetic in the first row, the baseline below.

    Raises:
        ResourceError: the file cannot be written; no partial file is left.
    """
    figure = _drawn(result)
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
        "balanced_accuracy": by_model(lambda score: score.balanced_accuracy),
        "recall": by_model(lambda score: list(score.recalls)),
        "epoch": by_model(lambda score: score.epoch),
        "validation": by_model(lambda score: score.validation_accuracy),
        "confusion": by_model(lambda score: score.confusion),
    }
