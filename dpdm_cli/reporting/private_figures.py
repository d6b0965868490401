"""Figures of synthetic images that are computed from real ones: for `private/`, never for a page that is published.

Distances are of wavelet scattering features, which need no weights, or of pixels where images are too small for those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dpdm_cli.compute.device import resolve_device
from dpdm_cli.data import ImageSet, load_images
from dpdm_cli.data.sources import samples_in
from dpdm_cli.evaluation.class_scores import TITLES, ClassifyResult
from dpdm_cli.evaluation.classification import classify
from dpdm_cli.evaluation.distances.frechet import FeatureStatistics, frechet_distance
from dpdm_cli.evaluation.distances.manifolds import DENSITY_K, ManifoldScores, compare_manifolds
from dpdm_cli.evaluation.features.extractors import Extractor, PixelExtractor
from dpdm_cli.evaluation.features.scattering import FEWEST_PIXELS, ScatteringExtractor
from dpdm_cli.reporter import Reporter
from dpdm_cli.sampling.png import Pixels

MOST = 10_000
"""Images of each side whose features are compared; of more, so many are drawn at random."""

_FEWEST_OF_A_CLASS = 2
_NEIGHBOURS = 10  # samples whose nearest real image is shown
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """One classifier, trained on synthetic images, on the real test images; all in percent.

    Attributes:
        recalls: by class, of those that a test image is of.
        balanced: their mean.
        classes: names in the order of the matrix.
        confusion: counts; row = true class, column = predicted class.
    """

    title: str
    accuracy: float
    balanced: float
    recalls: Mapping[str, float]
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class ClassDistance:
    """Squared Fréchet distance of a class, None where a side has too few images; and how many there were."""

    name: str
    distance: float | None
    synthetic: int
    real: int


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A sample and the real image nearest to it.

    Attributes:
        sample, real: uint8 [C, H, W].
        distance: of their features.
        of_real: distance from that real image to the next real one, to compare with.
    """

    sample: Pixels
    real: Pixels
    distance: float
    of_real: float


@dataclass(frozen=True, kw_only=True)
class PrivateFigures:
    """What real images say of a set of synthetic ones.

    Attributes:
        against: the real images, as they were named.
        test_counts: real test images of each class; empty where there are no classes.
        majority: percent of the test images that are of the largest class, what always saying it would score.
        accuracies: by classifier; none without classes.
        features: what distances are of.
        distance: squared Fréchet distance, of `compared` synthetic and real images.
        by_class: the same for each class.
        manifolds: precision and variety; None for fewer than six images.
        neighbours: of a few samples.
    """

    against: str
    test_counts: Mapping[str, int]
    majority: float
    accuracies: tuple[Accuracy, ...]
    features: str
    distance: float
    compared: tuple[int, int]
    by_class: tuple[ClassDistance, ...]
    manifolds: ManifoldScores | None
    neighbours: tuple[Neighbour, ...]


def private_figures(
    samples: Path,
    against: str,
    classes: Sequence[str],
    *,
    models: Sequence[str] | None,
    epochs: int,
    device: str,
    data_dir: Path | None,
    download: bool,
    reporter: Reporter,
) -> PrivateFigures:
    """Compare a set of samples with real images.

    Args:
        samples: a set that was verified.
        against: the real images; the split to train on is what distances are to, the other is what is classified.
        classes: names in label order.
        models, epochs, device, data_dir, download, reporter: as for `classify`.

    Raises:
        UsageError, DataError, ResourceError: as for `classify` and `load_images`.
    """
    synthetic = load_images(samples_in(samples), classes=classes or None).in_memory()
    height, width = synthetic.size
    real = load_images(
        against,
        data_dir=data_dir,
        download=download,
        image_size=height if height == width else None,
        channels=synthetic.channels,
        classes=classes or None,
    ).in_memory()
    scored = None
    if classes:
        scored = classify(
            samples,
            test=against,
            models=models,
            epochs=epochs,
            device=device,
            data_dir=data_dir,
            download=download,
            reporter=reporter,
        )
    where = resolve_device(device)
    network: Extractor = PixelExtractor(where)
    if min(height, width) >= FEWEST_PIXELS:
        network = ScatteringExtractor(where)
    ours, theirs = _some(synthetic), _some(real)
    reporter.note(
        f"features of {len(ours.images):,} synthetic and {len(theirs.images):,} real images"
    )
    mine, yours = _features(network, ours.images), _features(network, theirs.images)
    return PrivateFigures(
        against=against,
        test_counts=dict(zip(scored.classes, scored.test_counts, strict=True)) if scored else {},
        majority=scored.majority.share if scored else 0.0,
        accuracies=_accuracies(scored),
        features=network.name,
        distance=_distance(mine, yours),
        compared=(len(mine), len(yours)),
        by_class=_by_class(ours, theirs, mine, yours),
        manifolds=_manifolds(mine, yours),
        neighbours=_neighbours(ours, theirs, mine, yours),
    )


def _some(images: ImageSet) -> ImageSet:
    """At most `MOST` of them, the same at each call."""
    count = len(images.images)
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:MOST]
    labels = None if images.labels is None else images.labels[chosen]
    return ImageSet(images.name, images.images[chosen], labels, images.classes)


def _features(network: Extractor, images: Tensor) -> Tensor:
    """[N, D] float64 on the CPU."""
    return torch.cat([network(batch).cpu().double() for batch in torch.split(images, _BATCH)])


def _distance(one: Tensor, other: Tensor) -> float:
    return frechet_distance(FeatureStatistics.of(one), FeatureStatistics.of(other))


def _manifolds(mine: Tensor, yours: Tensor) -> ManifoldScores | None:
    n = min(len(mine), len(yours))
    return compare_manifolds(yours[:n], mine[:n]) if n > DENSITY_K else None


def _by_class(
    ours: ImageSet, theirs: ImageSet, mine: Tensor, yours: Tensor
) -> tuple[ClassDistance, ...]:
    if ours.labels is None or theirs.labels is None:
        return ()
    found = []
    for label, name in enumerate(ours.classes):
        one, other = mine[ours.labels == label], yours[theirs.labels == label]
        is_enough = min(len(one), len(other)) >= _FEWEST_OF_A_CLASS
        found.append(
            ClassDistance(
                name=name,
                distance=_distance(one, other) if is_enough else None,
                synthetic=len(one),
                real=len(other),
            )
        )
    return tuple(found)


def _neighbours(
    ours: ImageSet, theirs: ImageSet, mine: Tensor, yours: Tensor
) -> tuple[Neighbour, ...]:
    """One sample of each of the first classes, or the first samples; with the real image that is nearest to each."""
    chosen = list(range(len(mine)))
    if ours.labels is not None:
        labels = ours.labels.tolist()
        chosen = sorted({label: at for at, label in reversed([*enumerate(labels)])}.values())
        chosen.sort(key=lambda at: labels[at])
    found = []
    for at in chosen[:_NEIGHBOURS]:
        distances = torch.linalg.vector_norm(yours - mine[at], dim=1)
        nearest = int(distances.argmin())
        among = torch.linalg.vector_norm(yours - yours[nearest], dim=1)
        among[nearest] = torch.inf
        found.append(
            Neighbour(
                sample=ours.images[at].numpy(),
                real=theirs.images[nearest].numpy(),
                distance=float(distances[nearest]),
                of_real=float(among.min()),
            )
        )
    return tuple(found)


def _accuracies(scored: ClassifyResult | None) -> tuple[Accuracy, ...]:
    if scored is None:
        return ()
    return tuple(
        Accuracy(
            title=TITLES[name],
            accuracy=score.accuracy,
            balanced=score.balanced_accuracy,
            recalls={
                each: recall
                for each, recall in zip(scored.classes, score.recalls, strict=True)
                if recall is not None
            },
            classes=scored.classes,
            confusion=tuple(map(tuple, score.confusion)),
        )
        for name, score in scored.scores.items()
    )
