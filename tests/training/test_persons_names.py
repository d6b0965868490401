"""Whom images are of is written nowhere that may be published, nor into a prepared file, whatever says it."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.trained import TINY

from dpdm_cli import prepare, release, sample, train
from dpdm_cli.training.trainer import Trainer

MARK = "lovelace"
PUBLIC: dict[str, Any] = {"dataset_size": 40, "classes": ["0", "1"], "image_size": 8, "channels": 1}


def folder(path: Path, names: Callable[[int], str]) -> Path:
    rng = np.random.default_rng(0)
    for index in range(32):
        place = path / names(index)
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 4096, (8, 8)).astype(np.uint16)
        Image.fromarray(pixels).save(place)
    return path


def in_folders(path: Path) -> tuple[Path, dict[str, Any]]:
    found = folder(path, lambda i: f"{MARK}-{i // 2}/{i % 2}/{i}.png")
    return found, {"layout": "person/class/image"}


def in_a_table(path: Path) -> tuple[Path, dict[str, Any]]:
    found = folder(path, lambda i: f"{i}.png")
    rows = "".join(f"{i},{i % 2},{MARK}-{i // 2}\n" for i in range(32))
    table = path / "metadata.csv"
    table.write_text(f"file_name,label,{MARK}\n{rows}")
    return found, {"person_column": MARK}


def everything(place: Path) -> bytes:
    """All bytes of files below, with names and what is compressed in them."""
    found = b""
    for path in sorted(place.rglob("*")):
        found += str(path.relative_to(place)).encode()
        if path.is_file():
            data = path.read_bytes()
            found += data
            if path.suffix == ".zip":
                with zipfile.ZipFile(path) as archive:
                    found += b"".join(archive.read(name) for name in archive.namelist())
            for start in (i for i in range(len(data)) if data.startswith(b"IDAT", i)):
                found += zlib.decompressobj().decompress(data[start + 4 :])
    return found.lower()


@pytest.mark.parametrize("where", [in_folders, in_a_table])
def test_names_of_persons_are_nowhere(
    where: Callable[[Path], tuple[Path, dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Trainer, "check", lambda self: None)
    source, how = where(tmp_path / "scans")
    how["window"] = (0, 4095)
    run = {**TINY, **PUBLIC, "preset": "small", "steps": 1, "patch": 1, "epsilon": 50.0,
           "delta": 1e-3, "warm_start": "none", "init": "none", "accountant": "rdp"}  # fmt: skip
    made = tmp_path / "made"
    train(str(source), made / "run", **how, **run)
    sample(made / "run", made / "synth", n=2, steps=1)
    release(made / "synth", made / "release")
    prepare(source, made / "x.safetensors", classes=PUBLIC["classes"], hold_out=0.3, **how)
    said = everything(made)
    column = [MARK.encode()] if where is in_folders else [f"{MARK}-".encode()]
    assert not [mark for mark in column if mark in said]
    state = everything(made / "run" / "private")
    assert b"lovelace-" not in state


def test_the_window_and_the_columns_are_those_a_run_was_started_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import safe_open
    from support.trained import interrupt_after

    from dpdm_cli.errors import InterruptedRunError, PrivacyError

    monkeypatch.setattr(Trainer, "check", lambda self: None)
    source, how = in_folders(tmp_path / "scans")
    run = {**TINY, **PUBLIC, "preset": "small", "patch": 1, "epsilon": 50.0, "delta": 1e-3,
           "warm_start": "none", "init": "none", "accountant": "rdp"}  # fmt: skip
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(InterruptedRunError):
            train(str(source), tmp_path / "run", window=(0, 4095), **how, **run)
    with pytest.raises(PrivacyError, match="window"):
        train(str(source), tmp_path / "run", resume=True, window=(0, 100))
    done = train(str(source), tmp_path / "run", resume=True)
    assert done.statement.private
    with safe_open(done.model, framework="np") as file:
        assert "4095" not in json.dumps(file.metadata())
