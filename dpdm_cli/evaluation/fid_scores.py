"""The result of `dpdm fid` as values and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from dpdm_cli.evaluation.distances.kernel_distance import KernelDistance
from dpdm_cli.evaluation.distances.manifolds import DENSITY_K, K, ManifoldScores
from dpdm_cli.results import Result
from dpdm_cli.stored import Json


@dataclass(frozen=True)
class Yardstick:
    """The distance between two disjoint random parts of the real images: what two sets of one kind are apart.

    Attributes:
        fid: squared Fréchet distance of the same features.
        n: images in each part: as many as there are synthetic ones, or half of the real ones where these are fewer.
            Fewer images make it larger.
    """

    fid: float
    n: int


@dataclass(frozen=True)
class ClassDistance:
    """The distance of one class's synthetic images to its real ones.

    Attributes:
        fid: squared Fréchet distance.
        n, reference_n: synthetic and real images of the class.
        yardstick: that of the class; None for fewer than four real images.
    """

    fid: float
    n: int
    reference_n: int
    yardstick: Yardstick | None


@dataclass(frozen=True)
class SplitScore:
    """Distance to one split of the reference.

    Attributes:
        fid: squared Fréchet distance, at least 0; lower is closer.
        n: images in the split.
        digest: SHA-256 (hex) of its images, in order.
        kid: kernel distance of the same features, where it was asked for; `first` are the synthetic images.
        manifolds: precision, recall, density and coverage, where they were asked for.
        yardstick: what `fid` is to be compared with; None for fewer than four real images.
        classes: by name, of those with at least two images on each side, where they were asked for.
    """

    fid: float
    n: int
    digest: str
    kid: KernelDistance | None = None
    manifolds: ManifoldScores | None = None
    yardstick: Yardstick | None = None
    classes: Mapping[str, ClassDistance] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class FidResult(Result):
    """What was compared with what, and how far apart they are.

    Attributes:
        n: synthetic images.
        against: the reference, as it was named.
        extractor, extractor_digest, resize: what the features are; distances compare only where all
            three agree.
        scores: by split, `train` and `test`; `all` for a reference that is not divided.
    """

    n: int
    against: str
    extractor: str
    extractor_digest: str
    resize: str
    scores: dict[str, SplitScore]

    @property
    def summary(self) -> str:
        """One line."""
        parts = []
        for split, score in self.scores.items():
            apart = f", of real from real {score.yardstick.fid:.4g}" if score.yardstick else ""
            parts.append(f"{score.fid:.4g} to {split} ({score.n:,} images{apart})")
        features = f"{self.extractor} features"
        return f"Fréchet distance of {self.n:,} images, {features}: {'; '.join(parts)}"

    def to_dict(self) -> Json:
        """For JSON; `kid`, `precision_recall` and `by_class` are there when they were asked for."""
        kid = {
            split: {
                "mean": score.kid.mean,
                "std": score.kid.std,
                "subsets": score.kid.subsets,
                "subset_size": score.kid.subset_size,
                "n": score.kid.first,
                "reference_n": score.kid.second,
            }
            for split, score in self.scores.items()
            if score.kid
        }
        manifolds = {
            split: {**asdict(score.manifolds), "k": K, "density_k": DENSITY_K}
            for split, score in self.scores.items()
            if score.manifolds
        }
        by_class = {
            split: {name: asdict(found) for name, found in score.classes.items()}
            for split, score in self.scores.items()
            if score.classes
        }
        return {
            "fid": {split: score.fid for split, score in self.scores.items()},
            "yardstick": {
                split: score.yardstick and asdict(score.yardstick)
                for split, score in self.scores.items()
            },
            "n": self.n,
            "against": self.against,
            "reference": {
                split: {"n": score.n, "sha256": score.digest}
                for split, score in self.scores.items()
            },
            **({"kid": kid} if kid else {}),
            **({"precision_recall": manifolds} if manifolds else {}),
            **({"by_class": by_class} if by_class else {}),
            "extractor": self.extractor,
            "extractor_sha256": self.extractor_digest,
            "resize": self.resize,
        }
