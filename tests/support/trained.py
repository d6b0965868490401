"""Training runs short enough for every test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dpdm_cli.training.run import TrainResult, train
from dpdm_cli.training.trainer import Trainer

TINY: dict[str, Any] = {
    "width": 8,
    "multipliers": (1,),
    "embedding": 16,
    "steps": 6,
    "batch_size": 32,
    "noise_multiplicity": 2,
    "delta": 1e-4,
    "device": "cpu",
    "micro_batch": 64,  # measured else, by each run
}


def run(out: Path, data: str = "digits", **changes: Any) -> TrainResult:
    return train(data, out, preset="small", **{**TINY, **changes})


def digits_folder(path: Path, count: int = 40) -> Path:
    from dpdm_cli.data import load_images

    images = load_images("digits")
    assert images.labels is not None
    for index in range(count):
        target = path / str(int(images.labels[index])) / f"{index}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.images[index, 0].numpy()).save(target)
    return path


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    ordinary = Trainer.step

    def step(self: Trainer) -> None:
        ordinary(self)
        if self.done == steps:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "step", step)
