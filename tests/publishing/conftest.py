"""A finished model, and sets of samples drawn from it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.drawn import draw, save
from support.foreign import PRETRAINED

from dpdm_cli import verify
from dpdm_cli.checkpoint import load_model
from dpdm_cli.privacy.public_inputs import PUBLISHED
from dpdm_cli.privacy.statement import private_statement
from dpdm_cli.sampling.writing import FORMATS
from dpdm_cli.training.folder.run_folder import RunFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in a folder as `release` leaves it: small, and with a claim that holds."""
    home = tmp_path_factory.mktemp("finished") / "run"
    home.mkdir()
    model = load_model(PRETRAINED)
    public = replace(PUBLISHED, image_size="stated")
    statement = private_statement(model.statement.ledger, public)
    save(home / "model.safetensors", model.classes, statement=statement, dataset="mnist")
    for name in ("samples.png", "README.md"):
        shutil.copy(PRETRAINED / name, home)
    folder = RunFolder(home)
    folder.write_statement(statement)
    folder.write_manifest(folder.samples, folder.card)
    verify([home])
    return home


@pytest.fixture(scope="module")
def drawn(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set in each format, and a shard."""
    home = tmp_path_factory.mktemp("drawn")
    options: dict[str, Any] = {"n": 4, "batch_size": 2, "steps": 1}
    for format in FORMATS:
        draw(finished, home / format, format=format, **options)
    draw(finished, home / "shard", shard=(1, 2), **options)
    for name in (*FORMATS, "shard"):
        verify([home / name])
    return home


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))
