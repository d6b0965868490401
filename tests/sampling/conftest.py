"""A tiny model to draw from."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.drawn import save


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model.safetensors")
