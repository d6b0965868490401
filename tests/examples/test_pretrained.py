"""The model that comes with the examples is what its statement says, and draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dpdm_cli.publishing.verifying import verify
from dpdm_cli.sampling.run import sample

FOLDERS = sorted((Path(__file__).parents[2] / "examples" / "pretrained").iterdir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_pretrained_model_verifies_and_draws(folder: Path, tmp_path: Path) -> None:
    (found,) = verify([folder]).artefacts
    assert found.statement.epsilon <= 10
    assert sum(file.stat().st_size for file in folder.iterdir()) < 8 << 20
    drawn = sample(folder, tmp_path / "synth", n=10, steps=4, format="npz")
    images = np.load(drawn.folder / "samples.npz")["images"]
    assert len(images) == 10
    assert images.std() > 30  # pictures, not grey
