"""Statistics of a reference, kept so that its features are computed once.

The reference's mean and covariance are kept in the user's cache, in a folder `private/`: they
describe the real images, and no noise protects them. Features of single images are never kept.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import torch

from dpdm_cli.errors import DpdmError
from dpdm_cli.evaluation.distances.frechet import FeatureStatistics
from dpdm_cli.files import private_folder, write_bytes
from dpdm_cli.stored import json_digest, parse_json


def cache_file(cache: Path, key: dict[str, str]) -> Path:
    """The path of a key's statistics in the cache."""
    name = json_digest(key)[:32]
    return cache / "private" / "fid" / f"{name}.npz"


def read_statistics(file: Path, key: dict[str, str]) -> FeatureStatistics | None:
    """What is cached for the key; None when there is nothing, or only a damaged file."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            if parse_json(str(stored["key"]), "key") != key:
                return None
            count, mean, scatter = int(stored["count"]), stored["mean"], stored["scatter"]
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, DpdmError):
        return None
    sound = (
        mean.dtype == scatter.dtype == np.float64
        and mean.ndim == 1
        and scatter.shape == (mean.size, mean.size)
        and np.isfinite(mean).all()
        and np.isfinite(scatter).all()
    )
    if not sound:
        return None
    return FeatureStatistics(count, torch.from_numpy(mean), torch.from_numpy(scatter))


def write_statistics(file: Path, key: dict[str, str], statistics: FeatureStatistics) -> None:
    """Keep statistics under a key, readable by this user alone.

    Raises:
        OSError, ResourceError: the file cannot be written.
    """
    buffer = io.BytesIO()
    np.savez(
        buffer,
        key=np.array(json.dumps(key)),
        count=np.array(statistics.count),
        mean=statistics.mean.numpy(),
        scatter=statistics.scatter.numpy(),
    )
    private_folder(file.parents[1])
    private_folder(file.parent)
    write_bytes(file, buffer.getvalue(), private=True)
