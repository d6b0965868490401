"""What classes may be called, wherever their images come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.trained import run

from dpdm_cli.data import load_images
from dpdm_cli.data.class_names import check_new_classes
from dpdm_cli.data.prepare.preparing import prepare
from dpdm_cli.errors import DataError

UNUSABLE = ("", "two\nlines", "\x1b[31mred", "\u202egnp", "x" * 300, "a")
RESERVED = ("private", "grid.png", "metadata.json", "README.md", "readme.MD", "train")


def arrays(path: Path, second: str) -> Path:
    """Twelve images of two classes, as an npz may name them."""
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    labels = np.arange(12, dtype=np.int64) % 2
    np.savez(path, images=images, labels=labels, classes=np.array(["a", second]))
    return path


@pytest.mark.parametrize("name", [*UNUSABLE, *RESERVED], ids=ascii)
def test_a_name_under_which_nothing_is_published_is_refused_before_anything_is_made(
    name: str, tmp_path: Path
) -> None:
    source = arrays(tmp_path / "x.npz", name)
    for make in (
        lambda: prepare(source, tmp_path / "out.safetensors"),
        lambda: run(tmp_path / "run", str(source), public_metadata=True, batch_size=4),
    ):
        with pytest.raises(DataError):
            make()
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize("name", ["T-shirt/top", ".hidden", "back\\slash", "<b>", "x" * 255])
def test_what_prepare_writes_is_read(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    prepare(arrays(tmp_path / "x.npz", name), out)
    assert load_images(out).classes == ("a", name)
    assert prepare(tmp_path / "x.npz", out).was_there


def test_names_of_classes_are_told_apart() -> None:
    check_new_classes(("cat", "Cat", "train 1"), "here")
