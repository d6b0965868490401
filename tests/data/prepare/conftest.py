"""A folder of images, and a place for what is prepared from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.preparing import fill, images

from dpdm_cli.data.prepare import preparing, unfinished


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "pictures", images())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "x.safetensors"


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save after every five files or so."""
    monkeypatch.setattr(preparing, "_FIRST_FILES", 3)
    monkeypatch.setattr(preparing, "_BATCH_FILES", 2)
    monkeypatch.setattr(unfinished, "STRETCH_FILES", 5)
    monkeypatch.setattr(unfinished, "_BLOCK", 200)
