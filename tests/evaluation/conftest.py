"""Images to train classifiers on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dpdm_cli.data import load_images


@pytest.fixture
def digits_as_samples(tmp_path: Path) -> Path:
    """Real digits of the training split in the place of synthetic ones."""
    real = load_images("digits", split="train")
    assert real.labels is not None
    file = tmp_path / "samples.npz"
    chosen = slice(0, 300)
    np.savez(
        file,
        images=real.images[chosen, 0].numpy(),
        labels=real.labels[chosen].numpy(),
        classes=np.array(real.classes),
    )
    return file
