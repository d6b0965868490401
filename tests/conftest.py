"""Fixtures that many tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets, laid out as torchvision does."""
    folder = os.environ.get("DPDM_DATA_DIR")
    if not folder:
        pytest.skip(
            "DPDM_DATA_DIR is unset: this test needs the real MNIST and Fashion-MNIST files"
        )
    return Path(folder)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` run where there is a CUDA device, and nowhere else."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no CUDA device")
