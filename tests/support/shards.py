"""Shards of a set, drawn and copied together."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpdm_cli import errors
from dpdm_cli.sampling.png import PngEncoder
from dpdm_cli.sampling.run import SampleResult
from support.drawn import Listener, draw


def draw_shards(checkpoint: Path, out: Path, of: int, **changes: Any) -> list[SampleResult]:
    return [
        draw(checkpoint, out / f"shard-{number}", shard=(number, of), **changes)
        for number in range(1, of + 1)
    ]


def merge(shards: Path, into: Path) -> Path:
    """`cp -r shards/shard-*/. into/`"""
    for shard in sorted(shards.glob("shard-*")):
        shutil.copytree(shard, into, dirs_exist_ok=True)
    return into


def interrupt(checkpoint: Path, out: Path, shard: tuple[int, int] | None, **changes: Any) -> None:
    """Draw one batch."""
    with pytest.raises(errors.InterruptedRunError):
        draw(checkpoint, out, shard=shard, reporter=Listener(stop_after=1), **changes)


def overwrite(folder: Path, indices: Iterable[int]) -> None:
    """Put images there that pass for drawn ones, but are not."""
    for index in indices:
        file = folder / "train" / ("cat", "dog", "eel")[index % 3] / f"{index:06d}.png"
        pixels = np.full((1, 1, 4, 4), index, np.uint8)
        file.write_bytes(PngEncoder((1, 4, 4), marked=True).encode(pixels)[0])
