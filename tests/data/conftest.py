"""Small images and archives to build data sets from."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Encode = Callable[..., bytes]


@pytest.fixture
def encode() -> Encode:
    """Encode an array, or a flat image of `size`, as one file's bytes."""

    def encode(
        pixels: np.ndarray | int = 0,
        size: tuple[int, int] = (4, 4),
        mode: str = "L",
        suffix: str = "PNG",
        **options: object,
    ) -> bytes:
        stream = io.BytesIO()
        if isinstance(pixels, int):
            image = Image.new(mode, size, pixels)
        else:
            image = Image.fromarray(pixels)
        image.save(stream, suffix, **options)
        return stream.getvalue()

    return encode


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """Write files below a new folder; a name that ends in a slash is an empty folder."""

    def make(files: dict[str, bytes]) -> Path:
        root = tmp_path / "pictures"
        root.mkdir()
        for name, data in files.items():
            path = root / name
            if name.endswith("/"):
                path.mkdir(parents=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return root

    return make


@pytest.fixture
def make_zip(tmp_path: Path) -> Callable[[list[tuple[str, bytes]]], Path]:
    """Write a zip with exactly these members, in this order."""

    def make(members: list[tuple[str, bytes]]) -> Path:
        path = tmp_path / "pictures.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members:
                archive.writestr(name, data)
        return path

    return make
