"""Folders of images to prepare, and what a call of `prepare` says."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dpdm_cli.data.prepare.preparing import prepare
from dpdm_cli.errors import (
    InterruptedRunError,
)
from dpdm_cli.reporter import SilentProgress, SilentReporter

N = 23


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def images(n: int = N, *shape: int) -> list[bytes]:
    rng = np.random.default_rng(n)
    return [png(rng.integers(0, 256, shape or (5, 5, 3), dtype=np.uint8)) for _ in range(n)]


def fill(folder: Path, contents: list[bytes], classes: int = 3) -> Path:
    """Files in class folders, or flat for no class."""
    for index, content in enumerate(contents):
        path = folder / (f"c{index % classes}" if classes else "") / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


class Watcher(SilentReporter):
    """Keeps what is said, and acts after some batches."""

    def __init__(self, act: Callable[[], None] = lambda: None, after: int = 0) -> None:
        self.said: list[str] = []
        self._act, self._after, self.seen = act, after, 0

    def note(self, text: str) -> None:
        self.said.append(text)

    warn = note

    def progress(self, *_: object, **__: object):
        watcher = self

        class Progress(SilentProgress):
            def advance(self, count: int = 1, **fields: str) -> None:
                watcher.seen += 1
                if watcher.seen == watcher._after:
                    watcher._act()

        return nullcontext(Progress())


def same(found, known) -> None:
    assert torch.equal(found.images, known.images)
    assert (found.labels is None) == (known.labels is None)
    assert known.labels is None or torch.equal(found.labels, known.labels)
    assert found.classes == known.classes


def left_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.exists() else []


def interrupted(source: Path, out: Path, **options) -> None:
    stop = Watcher(lambda: os.kill(os.getpid(), signal.SIGTERM), after=3)
    with pytest.raises(InterruptedRunError):
        prepare(source, out, reporter=stop, **options)
