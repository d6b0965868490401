"""Mean and covariance of features of many images, by several processes together, kept where that is allowed."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import torch
from torch import Tensor

from dpdm_cli.compute.distributed import Processes
from dpdm_cli.data.shared_images import SharedImages
from dpdm_cli.errors import ResourceError
from dpdm_cli.evaluation.distances.frechet import FeatureStatistics
from dpdm_cli.evaluation.features.extractors import Extractor
from dpdm_cli.evaluation.features.kept_features import KeptFeatures
from dpdm_cli.evaluation.reference_cache import cache_file, read_statistics, write_statistics
from dpdm_cli.reporter import Progress, Reporter

ALL = "all"
"""The name of the subset of all images."""


@dataclass(frozen=True)
class Measuring:
    """Statistics of features, computed by all processes together."""

    network: Extractor
    batch_size: int
    processes: Processes
    reporter: Reporter

    def of_reference(
        self,
        images: SharedImages,
        key: dict[str, str],
        cache: Path | None,
        kept_subsets: Mapping[str, Tensor],
        others: Mapping[str, Tensor],
        features: KeptFeatures | None,
    ) -> dict[str, FeatureStatistics]:
        """As `statistics`, from the cache, if there is one, where they are in it, and kept there.

        With cached statistics, only images whose features are kept are read.

        Args:
            kept_subsets: those whose statistics are kept.
            others: those whose are not.
        """
        title = f"features of {key['data']} ({key['split']})"
        files: dict[str, tuple[Path, dict[str, str]]] = {}
        known: dict[str, FeatureStatistics] = {}
        for name in kept_subsets if cache else ():
            assert cache
            own = key if name == ALL else {**key, "subset": name}
            files[name] = cache_file(cache, own), own

            def read(name: str = name) -> bool:
                if found := read_statistics(*files[name]):
                    known[name] = found
                return found is not None

            if self.processes.broadcast(read):
                known.setdefault(name, FeatureStatistics.empty(0))
        wanted = {n: s for n, s in {**kept_subsets, **others}.items() if n not in known}
        if features:
            wanted["features"] = features.chosen
        computed = self.statistics(images, title, wanted, features) if wanted else {}
        new = [name for name in files if name not in known]
        if new and self.processes.is_first:
            try:
                for name in new:
                    write_statistics(*files[name], computed[name])
                where = files[new[0]][0].parent
                self.reporter.note(f"mean and covariance of {key['data']} are kept in {where}")
            except (OSError, ResourceError) as error:
                self.reporter.warn(f"the reference's statistics are not kept: {error}")
        return {**computed, **known}

    def statistics(
        self,
        images: SharedImages,
        title: str,
        subsets: Mapping[str, Tensor],
        kept: KeptFeatures | None = None,
    ) -> dict[str, FeatureStatistics]:
        """Of each subset with an image, by its name; each image is looked at once. In other processes than the first
        of what they have seen.

        Args:
            subsets: indices of images.
            kept: takes the features; with one process alone.
        """
        belongs = torch.zeros(len(images), len(subsets), dtype=torch.bool)
        for at, indices in enumerate(subsets.values()):
            belongs[indices, at] = True
        # Images that belong to the same subsets are looked at together.
        kinds, kind_of = torch.unique(belongs, dim=0, return_inverse=True)
        found: dict[str, FeatureStatistics] = {}
        total = int(belongs.any(dim=1).sum())
        with self.reporter.progress(title, total, "images") as progress:
            for number, kind in enumerate(kinds.tolist()):
                if not any(kind):
                    continue
                part = self._of(images, (kind_of == number).nonzero().flatten(), kept, progress)
                for name in compress(subsets, kind):
                    found[name] = found[name] + part if name in found else part
        return found

    def _of(
        self,
        images: SharedImages,
        indices: Tensor,
        kept: KeptFeatures | None,
        progress: Progress,
    ) -> FeatureStatistics:
        mine: FeatureStatistics | None = None
        rounds = torch.split(indices, self.batch_size * self.processes.size)
        batches = images.rounds(self.batch_size, indices)
        for looked_at, batch in zip(rounds, batches, strict=True):
            with self.processes.together():
                if len(batch):
                    features = self.network(batch)
                    part = FeatureStatistics.of(features)
                    mine = part if mine is None else mine + part
                    if kept:
                        kept.take(looked_at, features)
            progress.advance(len(looked_at))
        (dimension,) = self.processes.all_reduce_max(0 if mine is None else len(mine.mean))
        # More processes than batches: some have seen none.
        mine = mine or FeatureStatistics.empty(dimension)
        counts = self.processes.gather(torch.tensor(mine.count))
        means, scatters = self.processes.gather(mine.mean), self.processes.gather(mine.scatter)
        if counts is None or means is None or scatters is None:
            return mine
        parts = map(FeatureStatistics, counts.tolist(), means, scatters)
        return functools.reduce(operator.add, parts)
