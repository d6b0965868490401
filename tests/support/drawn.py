"""Sampling runs with a model small enough for every test."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dpdm_cli.checkpoint import Model, save_model
from dpdm_cli.diffusion.denoiser import EDM, Denoiser
from dpdm_cli.diffusion.unet import UNet, UNetConfig
from dpdm_cli.privacy.accounting.risk import risk_of
from dpdm_cli.privacy.ledger import PublishedLedger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.public_inputs import PUBLISHED
from dpdm_cli.privacy.statement import Statement
from dpdm_cli.reporter import SilentProgress
from dpdm_cli.sampling.run import SampleResult, sample

PLAN = PrivacyPlan(dataset_size=60, expected_batch_size=6, steps=5, sigma=1.0, delta=1e-5)


def claimed(epsilon: float = 9.98) -> Statement:
    """What the accountants were never asked about."""
    return Statement(
        ledger=PublishedLedger(PLAN, PLAN.releases, ("0" * 32,)),
        public_inputs=PUBLISHED,
        init_from=None,
        accountant="prv",
        epsilon_by={"prv": epsilon, "rdp": epsilon + 1},
        reason="",
        risk=risk_of(PLAN),
    )


STATEMENT = claimed()


def config_of(classes: tuple[str, ...]) -> UNetConfig:
    """The smallest network that draws."""
    return UNetConfig(
        image_size=4,
        image_channels=1,
        classes=len(classes),
        channels=8,
        multipliers=(1,),
        blocks=1,
        attention=(),
        embedding=8,
    )


def replace_with_room_for(images: int) -> Callable[[str, str], None]:
    """In the place of `os.replace`: the disk is full after so many images."""
    replace, done = os.replace, 0

    def limited(source: str, target: str) -> None:
        nonlocal done
        done += str(target).endswith(".png")
        if done > images:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    return limited


def save(path: Path, classes: tuple[str, ...] = ("cat", "dog", "eel"), **changes: Any) -> Path:
    """Write a model of images of 4x4 pixels."""
    config = config_of(classes)
    network = UNet(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        # As random as this, the images of two labels differ, and those of two indices too.
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    facts: dict[str, Any] = {"dataset": "custom", "statement": STATEMENT, **changes}
    model = Model(
        denoiser=Denoiser(network, EDM()),
        config=config,
        parameterisation="edm",
        classes=classes,
        **facts,
    )
    save_model(path, model)
    return path


def draw(checkpoint: Path, out: Path, **changes: Any) -> SampleResult:
    """Thirty images in batches of eight, unless something else is said."""
    options: dict[str, Any] = {"n": 30, "batch_size": 8, "device": "cpu"}
    options |= {"steps": 3, **changes}
    return sample(checkpoint, out, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its path."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


class Listener:
    """A reporter that remembers, and stops the process's run after a number of batches."""

    def __init__(self, stop_after: int = 0, number: int = signal.SIGINT) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.done = 0
        self.stop_after, self.number = stop_after, number

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    @contextmanager
    def progress(
        self, title: str, total: int, unit: str, done: int = 0
    ) -> Iterator[SilentProgress]:
        self.done = done
        batches = 0
        listener = self

        class Watched(SilentProgress):
            def advance(self, count: int = 1, **fields: str) -> None:
                nonlocal batches
                batches += 1
                if batches == listener.stop_after:
                    os.kill(os.getpid(), listener.number)

        yield Watched()
