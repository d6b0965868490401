"""What a run says beside its weights is a function of public figures: other images, to the letter the same words.

So no figure of the images gets into what may be published without noise: not a loss, not a count, under whatever name
and however rounded. The weights, and what is drawn from them, are what the mechanism released.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors
import torch
from support.leaks import LEAKS

from dpdm_cli import train
from dpdm_cli.data import NAMED, ImageSet
from dpdm_cli.privacy import ledger
from dpdm_cli.training import run as training
from dpdm_cli.training import setup
from dpdm_cli.training.folder.run_folder import RunFolder
from dpdm_cli.training.trainer import Trainer

TINY = {"width": 8, "embedding": 8, "batch_size": 32, "steps": 2, "micro_batch": 16}
CLASSES = NAMED["digits"].classes


def noisy_images(seed: int) -> ImageSet:
    """150 images of all classes."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (150, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageSet(name="digits", images=pixels, labels=torch.arange(150) % 10, classes=CLASSES)


def black_images() -> ImageSet:
    """90 images of one class, all alike."""
    pixels = torch.zeros(90, 1, 8, 8, dtype=torch.uint8)
    labels = torch.full((90,), 3)
    return ImageSet(name="digits", images=pixels, labels=labels, classes=CLASSES)


def said(images: ImageSet, out: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """All that a run on these images says outside `private/`, but for what the weights are."""
    with patch.context() as given:
        given.setattr(training, "load_images", lambda *_, **__: images)
        given.setattr(Trainer, "check", lambda self: None)
        given.setattr(setup, "today", lambda: "2026-01-31")
        given.setattr(training, "draw_grid", lambda model, path, device: path.write_bytes(b"PNG"))
        # The names that processes draw for themselves: the same in each run, and so the ledger's head.
        fixed = SimpleNamespace(**{**vars(os), "urandom": bytes})
        given.setattr(ledger, "os", fixed)
        train("digits", out, device="cpu", log_losses=True, **TINY)
    folder = RunFolder(out)
    with safetensors.safe_open(folder.model, framework="pt") as file:
        described = json.loads(file.metadata()["dpdm"])
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    del described["sha256"]
    entries = [path for path in out.rglob("*") if folder.private not in (path, *path.parents)]
    return {
        "files": {(path.name, path.stat().st_size) for path in entries},
        "statement.json": folder.statement.read_text(encoding="utf-8"),
        "model.safetensors": (described, shapes),
        "manifest.json": sorted(json.loads((out / "manifest.json").read_text())["sha256"]),
    }


def differences(seed: int, folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
    """What two runs on different images say differently."""
    one = said(noisy_images(seed), folder / "one", patch)
    other = said(black_images(), folder / "other", patch)
    return [what for what in one if one[what] != other[what]]


def test_what_a_run_says_does_not_depend_on_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert differences(0, tmp_path, monkeypatch) == []
    # The runs were different ones: what is private says so.
    losses = [(tmp_path / run / "private" / "losses.jsonl").read_text() for run in ("one", "other")]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("name", LEAKS)
def test_a_private_figure_in_what_is_published_is_seen(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LEAKS[name].break_it(monkeypatch)
    assert LEAKS[name].detector in differences(0, tmp_path, monkeypatch)
