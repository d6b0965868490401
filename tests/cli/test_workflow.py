"""The whole workflow by its commands: 64 private images in, a published model, samples and a score out."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from opacus.accountants.analysis import rdp
from PIL import Image
from typer.testing import CliRunner

from dpdm_cli.commands.app import app


def dpdm(*arguments: object) -> dict[str, Any]:
    """What a command prints as JSON."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json", "--quiet"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def images(path: Path, per_class: int) -> Path:
    """Squares of two sizes."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for name, side in (("large", 6), ("small", 2)):
            for index in range(per_class):
                pixels = random.integers(0, 40, (8, 8), dtype=np.uint8)
                pixels[1 : 1 + side, 1 : 1 + side] += 200
                stream = BytesIO()
                Image.fromarray(pixels).save(stream, "PNG")
                archive.writestr(f"{name}/{index}.png", stream.getvalue())
    return path


def test_from_private_images_to_a_score(tmp_path: Path) -> None:
    source, test = images(tmp_path / "private.zip", 32), images(tmp_path / "test.zip", 8)
    ready, run, public = tmp_path / "ready.safetensors", tmp_path / "run", tmp_path / "public"
    assert dpdm("prepare", source, ready)["n"] == 64
    config = tmp_path / "tiny.toml"
    config.write_text('width = 8\nembedding = 8\nmultipliers = [1]\nwarm_start = "none"\n')
    steps, batch = 20, 16
    trained = dpdm(
        *("train", ready, "--preset", "small", "--config", config, "--eps", 5, "--delta", 1e-3),
        *("--steps", steps, "--batch-size", batch, "--accountant", "rdp", "--micro-batch", 16),
        *("--out", run, "--public-metadata"),
    )
    dpdm("release", run, public)
    statement = json.loads((public / "statement.json").read_text())
    orders = [1 + x / 10 for x in range(1, 100)] + list(range(12, 256))
    spent = rdp.compute_rdp(
        q=batch / 64, noise_multiplier=statement["plan"]["sigma"], steps=steps, orders=orders
    )
    epsilon, _ = rdp.get_privacy_spent(orders=orders, rdp=spent, delta=1e-3)
    assert statement["epsilon"] == trained["epsilon"]
    assert 0 <= statement["epsilon"] - epsilon <= 0.01
    assert {str(file.relative_to(public)) for file in public.rglob("*") if file.is_file()} == {
        *("README.md", "manifest.json", "model.safetensors", "samples.png", "statement.json")
    }
    for file in public.rglob("*"):
        assert b"private.zip" not in file.read_bytes()
        assert str(tmp_path).encode() not in file.read_bytes()
    assert dpdm("verify", public)
    drawn = dpdm("sample", public, "-n", 64, "--steps", 4, "--out", tmp_path / "synth")
    assert drawn["epsilon"] == statement["epsilon"]
    scored = dpdm(
        *("classify", tmp_path / "synth", "--test", test, "--epochs", 1, "--model", "logreg"),
    )
    assert np.sum(scored["confusion"]["logreg"]) == scored["test_n"] == 16
    assert scored["logreg"] == 100 * np.trace(scored["confusion"]["logreg"]) / 16
