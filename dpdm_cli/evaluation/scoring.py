"""`dpdm fid`: how far synthetic images are from real ones. Files in, figures out."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import platformdirs
import torch
from torch import Tensor

from dpdm_cli.choices import Reference, Resize, Split
from dpdm_cli.compute.device import resolve_device
from dpdm_cli.compute.launched import require_one_process
from dpdm_cli.compute.rendezvous import joined
from dpdm_cli.data import ImageSet, load_images
from dpdm_cli.data.named import NAMED
from dpdm_cli.data.shared_images import SharedImages
from dpdm_cli.data.sources import samples_in, splits_of
from dpdm_cli.errors import DataError, UsageError
from dpdm_cli.evaluation.distances.frechet import FeatureStatistics, frechet_distance
from dpdm_cli.evaluation.distances.kernel_distance import KernelDistance, kernel_distance
from dpdm_cli.evaluation.distances.manifolds import ManifoldScores, compare_manifolds
from dpdm_cli.evaluation.features.extractors import (
    Extractor,
    InceptionExtractor,
    PixelExtractor,
    load_torchscript,
)
from dpdm_cli.evaluation.features.kept_features import KeptFeatures
from dpdm_cli.evaluation.features.scattering import ScatteringExtractor
from dpdm_cli.evaluation.features.weights import inception_weights
from dpdm_cli.evaluation.fid_scores import ClassDistance, FidResult, SplitScore, Yardstick
from dpdm_cli.evaluation.measuring import ALL, Measuring
from dpdm_cli.reporter import Reporter, heard

FEWEST = 10_000
"""Below this the distance is too large by an amount that depends on the number of images."""

BATCH_SIZE = 64


def fid(
    synth: str | Path,
    against: str | Path,
    *,
    split: Reference = "both",
    extractor: str = "inception",
    weights: Path | None = None,
    resize: Resize = "clean",
    kid: bool = False,
    precision_recall: bool = False,
    by_class: bool = False,
    data_dir: Path | None = None,
    download: bool = True,
    device: str = "auto",
    batch_size: int = BATCH_SIZE,
    cache_dir: Path | None = None,
    keep: bool = True,
    reporter: Reporter | None = None,
) -> FidResult:
    """Fréchet distance between synthetic and real images (Heusel et al. 2017, arXiv 1706.08500).

    Beside it stands a yardstick, the distance between two disjoint random parts of the real images, each of as many
    images as there are synthetic ones or of half of the real ones. It is above zero, and the larger the fewer images.

    Of several processes that torchrun started the first reads the images, and all compute features of a part of them.

    Args:
        synth, against: as for `dpdm_cli.data.load_images`. The reference is brought to the size and
            channels of the synthetic images, as it was for training.
        split: of the reference. A folder that is not divided into `train` and `test` is taken whole.
        extractor: `inception`, `scattering`, `pixels`, or the path of a TorchScript file (whose code is run).
        weights: where Inception's published file is; no other is taken, since its code is run. By default it is fetched
            if need be.
        resize: `clean` or `legacy_tensorflow`; Inception only. The figures of DPDM (arXiv 2210.09929) are by the
            network's own resizing, `legacy_tensorflow`, against training images.
        kid: the kernel distance of the same features too (Binkowski et al. 2018, arXiv 1801.01401).
        precision_recall: improved precision and recall of the same features too, with density and coverage
            (arXiv 1904.06991, 2002.09797), of as many images on both sides. For either, 10,000 images of a larger set
            are chosen at random, always the same, and one process does it.
        by_class: the distance of each class too, by names that both sets have; one process does it. Needs memory for
            four covariances of features a class, each of 32 MiB for Inception.
        data_dir, download: for named sets and for the weights.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        batch_size: images at a time; figures depend on it only by rounding.
        cache_dir: where weights and reference statistics are kept; by default the user's cache, where nothing is kept
            of images that are not published.
        keep: False keeps no statistics and reads none.

    Raises:
        UsageError: options that cannot be combined.
        DataError: images that cannot be used, or fewer than two, with precision and recall than six.
        DamagedFileError: a network's file that cannot be loaded.
        ResourceError: weights or data that are not here and cannot be fetched; another process is gone.
    """
    if split not in ("both", "train", "test"):
        raise UsageError(f"unknown split {split!r}", "choose both, train or test")
    if batch_size < 1:
        raise UsageError(f"the batch size must be at least 1, found {batch_size}")
    if kid or precision_recall or by_class:
        require_one_process("dpdm fid with --kid, --precision-recall or --by-class")
    cache = cache_dir or platformdirs.user_cache_path("dpdm", appauthor=False)
    keep = keep and (cache_dir is not None or str(against) in NAMED)
    where = resolve_device(device)
    with joined(where, "fid") as processes:
        reporter = heard(reporter, is_first=processes.is_first)
        if extractor == "inception":
            # Other machines may have to fetch it too; the processes of one machine do so one after the other.
            processes.broadcast(
                lambda: str(
                    inception_weights(weights, cache, download=download, note=reporter.note)
                )
            )
        with processes.together():
            network = _extractor(extractor, weights, resize, download, where, cache, reporter)
        processes.check_same(
            f"{network.digest} {network.resize} {where.type}",
            "the network of the features or the kind of device",
            "give every machine the same file and the same command",
        )
        splits = processes.broadcast(lambda: _splits(against, split))
        images = SharedImages(
            processes, lambda: load_images(samples_in(synth), data_dir=data_dir, download=download)
        )
        if len(images) < FEWEST:
            reporter.warn(
                f"{len(images)} synthetic images: below {FEWEST:,} the distance is too large by an amount that depends "
                "on their number; compare it only with others of the same number"
            )
        measuring = Measuring(network, batch_size, processes, reporter)
        ours = _kept(images, kid or precision_recall)
        drawn = images.by_class() if by_class else {}
        if by_class and not drawn:
            raise _without_classes(synth)
        synthetic = measuring.statistics(
            images,
            "features of the samples",
            {ALL: torch.arange(len(images)), **_named(drawn)},
            ours,
        )
        _, channels, height, width = images.shape
        scores = {}
        for name, loaded in splits.items():
            reference = SharedImages(
                processes,
                functools.partial(
                    load_images,
                    against,
                    split=loaded,
                    data_dir=data_dir,
                    download=download,
                    image_size=height if height == width else None,
                    channels=channels,
                ),
                lambda found: {"data": found.name, "data_sha256": content_digest(found)},
            )
            key = {
                **reference.facts,
                "split": name,
                "extractor": network.name,
                "extractor_sha256": network.digest,
                "resize": network.resize,
            }
            theirs = _kept(reference, kid or precision_recall)
            everyone = torch.arange(len(reference))
            halves = _halves(everyone, len(images))
            real = reference.by_class() if by_class else {}
            pairs = _pairs(against, drawn, real, reporter) if by_class else {}
            statistics = measuring.of_reference(
                reference,
                key,
                cache if keep else None,
                {ALL: everyone, **halves},
                {**_named(real), **{k: v for pair in pairs.values() for k, v in pair.items()}},
                theirs,
            )
            distance = processes.broadcast(
                functools.partial(frechet_distance, synthetic[ALL], statistics[ALL])
            )
            apart = processes.broadcast(functools.partial(_between, statistics, halves))
            scores[name] = SplitScore(
                distance,
                len(reference),
                key["data_sha256"],
                *_further(ours, theirs, kid, precision_recall),
                yardstick=_yardstick(apart, halves),
                classes={
                    found: ClassDistance(
                        frechet_distance(synthetic[_of_class(found)], statistics[_of_class(found)]),
                        len(drawn[found]),
                        len(real[found]),
                        _yardstick(_between(statistics, pair), pair),
                    )
                    for found, pair in pairs.items()
                },
            )
        reporter.warn(
            "these figures are computed from the real images and are not covered by the samples' privacy "
            "claim; keep them with your private files unless the reference is public"
        )
    return FidResult(
        n=len(images),
        against=str(against),
        extractor=network.name,
        extractor_digest=network.digest,
        resize=network.resize,
        scores=scores,
    )


def content_digest(images: ImageSet) -> str:
    """SHA-256 (hex) of the images' shape and pixels, in order."""
    digest = hashlib.sha256(str(tuple(images.images.shape)).encode())
    # By calls and not through a map, whose file may be cut meanwhile.
    for indices in torch.split(torch.arange(len(images.images)), 1024):
        digest.update(images.rows(indices).numpy().data)
    return digest.hexdigest()


def _halves(indices: Tensor, n: int, of: str = "") -> dict[str, Tensor]:
    """Two disjoint random subsets by name, always the same, each of n images or half of them; none of fewer than 4."""
    n = min(n, len(indices) // 2)
    if n < 2:
        return {}
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))
    parts = indices[order[:n]], indices[order[n : 2 * n]]
    return {f"half {i} of 2, {n} images{of}": part for i, part in enumerate(parts, 1)}


def _between(
    statistics: Mapping[str, FeatureStatistics], halves: Mapping[str, Tensor]
) -> float | None:
    return frechet_distance(*(statistics[name] for name in halves)) if halves else None


def _yardstick(distance: float | None, halves: Mapping[str, Tensor]) -> Yardstick | None:
    if distance is None:
        return None
    return Yardstick(distance, len(next(iter(halves.values()))))


def _pairs(
    against: str | Path, drawn: dict[str, Tensor], real: dict[str, Tensor], reporter: Reporter
) -> dict[str, dict[str, Tensor]]:
    """Halves of the real images of each class that can be compared, by its name.

    Raises:
        DataError: the real images have no classes, or none that can be compared.
    """
    if not real:
        raise _without_classes(against)
    names = [*dict.fromkeys([*drawn, *real])]
    few = [n for n in names if min(len(drawn.get(n, ())), len(real.get(n, ()))) < 2]
    if len(few) == len(names):
        raise DataError(
            f"no class has two images on both sides: synthetic ones are of {', '.join([*drawn][:10])}, real ones of "
            f"{', '.join([*real][:10])}",
            "give both the same class names, or leave out --by-class",
        )
    if few:
        reporter.warn(
            f"no distance by class, with fewer than two synthetic or real images: {', '.join(few[:20])}"
        )
    return {
        name: _halves(real[name], len(drawn[name]), f" of class {name}")
        for name in names
        if name not in few
    }


def _without_classes(source: str | Path) -> DataError:
    return DataError(
        f"{source} has no classes to compare one by one",
        "leave out --by-class, or give images in one subfolder for each class",
    )


def _of_class(name: str) -> str:
    return f"class {name}"


def _named(classes: dict[str, Tensor]) -> dict[str, Tensor]:
    return {_of_class(name): indices for name, indices in classes.items()}


def _splits(against: str | Path, split: str) -> dict[str, Split]:
    """Name in the result, and what `load_images` is asked for."""
    there = splits_of(against)
    wanted: dict[str, Split] = {"train": "train", "test": "test"}
    if split != "both":
        return {split: wanted[split]}
    return {name: wanted[name] for name in there} or {"all": "train"}


def _extractor(
    name: str,
    weights: Path | None,
    resize: str,
    download: bool,
    device: torch.device,
    cache: Path,
    reporter: Reporter,
) -> Extractor:
    if name == "inception":
        file = inception_weights(weights, cache, download=download, note=reporter.note)
        return InceptionExtractor(file, resize, device)
    if weights is not None:
        raise UsageError(
            f"weights of Inception are given, but the extractor is {name!r}",
            "leave out --inception-weights or --extractor",
        )
    if name == "scattering":
        return ScatteringExtractor(device)
    return PixelExtractor(device) if name == "pixels" else load_torchscript(name, device)


def _kept(images: SharedImages, wanted: bool) -> KeptFeatures | None:
    return KeptFeatures(len(images)) if wanted else None


def _further(
    ours: KeptFeatures | None, theirs: KeptFeatures | None, kid: bool, precision_recall: bool
) -> tuple[KernelDistance | None, ManifoldScores | None]:
    if ours is None or theirs is None:
        return None, None
    synthetic, real = ours.rows(), theirs.rows()
    n = min(len(synthetic), len(real))
    return (
        kernel_distance(synthetic, real) if kid else None,
        compare_manifolds(real[:n], synthetic[:n]) if precision_recall else None,
    )
