"""The result of `dpdm fid` as values and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from dpdm_cli.evaluation.distances.kernel_distance import KernelDistance
from dpdm_cli.evaluation.distances.manifolds import DENSITY_K, K, ManifoldScores
from dpdm_cli.stored import Json


@dataclass(frozen=True)
class SplitScore:
    """Distance to one split of the reference.

    Attributes:
        fid: squared Fréchet distance, at least 0; lower is closer.
        n: images in the split.
        digest: SHA-256 (hex) of its images, in order.
        kid: kernel distance of the same features, where it was asked for; `first` are the synthetic images.
        manifolds: precision, recall, density and coverage, where they were asked for.
    """

    fid: float
    n: int
    digest: str
    kid: KernelDistance | None = None
    manifolds: ManifoldScores | None = None


@dataclass(frozen=True)
class FidResult:
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

    def to_dict(self) -> Json:
        """For JSON; `kid` and `precision_recall` are there when they were asked for."""
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
        return {
            "fid": {split: score.fid for split, score in self.scores.items()},
            "n": self.n,
            "against": self.against,
            "reference": {
                split: {"n": score.n, "sha256": score.digest}
                for split, score in self.scores.items()
            },
            **({"kid": kid} if kid else {}),
            **({"precision_recall": manifolds} if manifolds else {}),
            "extractor": self.extractor,
            "extractor_sha256": self.extractor_digest,
            "resize": self.resize,
        }
