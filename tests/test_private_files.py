"""What is not to be published is closed to others from its first byte on, and what was open is closed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from support.trained import run

from dpdm_cli.evaluation.distances.frechet import FeatureStatistics
from dpdm_cli.evaluation.reference_cache import cache_file, read_statistics, write_statistics
from dpdm_cli.files import private_folder, write_bytes


@pytest.fixture(autouse=True)
def careless() -> Any:
    """A mask under which everybody may do everything."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_file_is_never_open_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = Path.write_bytes, []

    def write(self: Path, content: bytes) -> int:
        seen.append(mode(self))
        return real(self, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    write_bytes(tmp_path / "file", b"secret", private=True)
    assert [*seen, mode(tmp_path / "file")] == [0o600, 0o600]


@pytest.mark.parametrize("before", [None, 0o777, 0o755, 0o750, 0o700])
def test_a_private_folder_is_closed(before: int | None, tmp_path: Path) -> None:
    path = tmp_path / "over" / "private"
    if before is not None:
        path.mkdir(parents=True)
        path.chmod(before)
    assert mode(private_folder(path)) == 0o700


def test_all_that_lies_below_private_is_closed(tmp_path: Path) -> None:
    (tmp_path / "run" / "private").mkdir(parents=True)
    run(tmp_path / "run", steps=2, log_losses=True)
    private = tmp_path / "run" / "private"
    assert mode(private) == 0o700
    assert {path.name: mode(path) for path in private.iterdir()} == dict.fromkeys(
        ("README.txt", "losses.jsonl", "state.safetensors"), 0o600
    )


def test_cached_statistics_of_private_images_are_closed(tmp_path: Path) -> None:
    key = {"data": "scans"}
    file = cache_file(tmp_path, key)
    write_statistics(
        file, key, FeatureStatistics(2, torch.zeros(2).double(), torch.eye(2).double())
    )
    assert [mode(path) for path in (file, file.parent, file.parents[1])] == [0o600, 0o700, 0o700]
    assert read_statistics(file, key) is not None
