"""Release: what may be published comes along, nothing else does."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

from dpdm_cli import release, sample, train, verify
from dpdm_cli.commands.app import app
from dpdm_cli.data import load_images
from dpdm_cli.diffusion.generation import SamplerSettings
from dpdm_cli.errors import DamagedFileError, DataError, PrivacyError, UsageError

MARKED = "zaphod-the-marked"
STATED_SIZE = 1777
TINY = {"width": 8, "embedding": 8, "batch_size": 32, "steps": 3, "log_losses": True}


@pytest.fixture(scope="module")
def private_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path, file names and one image could be recognised; N is stated otherwise than it is."""
    folder = tmp_path_factory.mktemp(f"{MARKED}-folder")
    generator = np.random.default_rng(3)
    for name in ("left", "right"):
        (folder / name).mkdir()
        for index in range(37):
            pixels = generator.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{MARKED}-{index}.png")
    return folder


@pytest.fixture(scope="module")
def run(private_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "run"
    train(str(private_images), folder, dataset_size=STATED_SIZE, delta=1e-4, epsilon=8.0, **TINY)
    sample(folder, n=24, sampler=SamplerSettings(steps=2))
    return folder


@pytest.fixture(scope="module", params=["png", "npz", "zip"])
def released(run: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """A released model and a released set of samples."""
    model = run.parent / f"model-{request.param}"
    samples = run.parent / f"samples-{request.param}"
    drawn = run.parent / f"drawn-{request.param}"
    sample(run, drawn, n=24, sampler=SamplerSettings(steps=2), format=request.param)
    release(run, model)
    release(drawn, samples)
    return model, samples


def test_exactly_the_allowed_files_come_along(released: tuple[Path, Path]) -> None:
    model, samples = released
    assert {path.name for path in model.iterdir()} == {
        "model.safetensors",
        "statement.json",
        "samples.png",
        "manifest.json",
        "README.md",
    }
    files = {p.relative_to(samples).as_posix() for p in samples.rglob("*") if p.is_file()}
    common = {"metadata.json", "grid.png", "README.md"}
    if len(files) > 5:
        assert files - common == {
            f"{name}/{i:06d}.png" for i in range(24) for name in [("left", "right")[i % 2]]
        }
    else:
        assert len(files - common) == 1


def test_what_was_released_verifies_and_can_be_drawn_from(
    released: tuple[Path, Path], tmp_path: Path
) -> None:
    result = verify(list(released))
    assert result.together is not None
    assert result.together.epsilon <= 8.0
    sample(released[0], tmp_path / "more", n=2, sampler=SamplerSettings(steps=2))


def test_the_cards_say_what_a_reader_needs(released: tuple[Path, Path]) -> None:
    for folder in released:
        card = (folder / "README.md").read_text()
        statement = json.loads(next(folder.glob("[sm]*t*.json")).read_text())
        statement = statement.get("statement", statement)
        assert statement["text"] in card
        assert all(line in card for line in statement["not_covered"])
        assert "adding or removing one image" in card
        assert "None is stated." in card


def test_no_trace_of_whose_images_and_where(
    released: tuple[Path, Path], run: Path, private_images: Path
) -> None:
    losses = [
        json.loads(line)["loss"]
        for line in (run / "private" / "losses.jsonl").read_text().splitlines()
    ]
    words = [
        MARKED,
        str(private_images),
        str(run.parent),
        socket.gethostname(),
        os.uname().nodename,
        *(f"/{word}/" for word in (getpass.getuser(),)),
        "rng",
        "generator_state",
        "salt",
        "fingerprint",
        *(repr(loss)[:9] for loss in losses if loss),
    ]
    texts = [
        path
        for folder in released
        for path in folder.rglob("*")
        if path.suffix in (".json", ".md", ".safetensors")
    ]
    assert texts
    for path in texts:
        content = path.read_bytes()
        if path.suffix == ".safetensors":  # the description; weights are no text
            content = content[: 8 + int.from_bytes(content[:8], "little")]
        for word in words:
            assert word.encode() not in content, (path, word)
        assert b": 74" not in content  # the real number of images


def test_no_training_image_is_among_the_pictures(
    released: tuple[Path, Path], private_images: Path
) -> None:
    real = {image.numpy().tobytes() for image in load_images(str(private_images)).images}
    for folder in released:
        for path in folder.rglob("*.png"):
            pixels = np.asarray(Image.open(path).convert("L"))
            for top in range(0, pixels.shape[0] - 7):
                for left in range(0, pixels.shape[1] - 7):
                    assert pixels[top : top + 8, left : left + 8].tobytes() not in real


def test_more_than_may_be_published_is_refused(run: Path, tmp_path: Path) -> None:
    synth = shutil.copytree(run / "synth", tmp_path / "synth")
    metadata = json.loads((synth / "metadata.json").read_text())
    (synth / "metadata.json").write_text(json.dumps({**metadata, "losses": [1.0]}))
    with pytest.raises(PrivacyError, match="losses"):
        release(synth, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_picture_carries_beside_its_pixels_stays_behind(run: Path, tmp_path: Path) -> None:
    synth = shutil.copytree(run / "synth", tmp_path / "synth")
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", MARKED)
    with Image.open(synth / "grid.png") as picture:
        picture.save(synth / "grid.png", pnginfo=notes)
    assert MARKED.encode() in (synth / "grid.png").read_bytes()
    release(synth, tmp_path / "out")
    assert MARKED.encode() not in (tmp_path / "out" / "grid.png").read_bytes()


def test_private_and_unfinished_and_unclaimed_sources_are_refused(
    run: Path, tmp_path: Path
) -> None:
    with pytest.raises(PrivacyError, match="private"):
        release(run / "private", tmp_path / "out")
    with pytest.raises(PrivacyError, match="private"):
        release(run / "private" / "state.safetensors", tmp_path / "out")
    state = shutil.copy(run / "private" / "state.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="state file"):
        release(state, tmp_path / "out")
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    (unfinished / "manifest.json").unlink()
    with pytest.raises(DataError, match="not finished"):
        release(unfinished, tmp_path / "out")
    damaged = shutil.copytree(run, tmp_path / "damaged")
    (damaged / "samples.png").write_bytes(b"x")
    with pytest.raises(DamagedFileError):
        release(damaged, tmp_path / "out")
    train("digits", tmp_path / "open", private=False, **TINY)
    with pytest.raises(PrivacyError, match="no privacy is claimed"):
        release(tmp_path / "open", tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        release(run, tmp_path / "out")


def test_the_command_adds_an_evaluation_by_hand(run: Path, tmp_path: Path) -> None:
    (tmp_path / "evaluation.md").write_text("A CNN trained on 24 samples: 51 % on public images.")
    arguments = ["release", str(run / "model.safetensors"), str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, [*arguments, "--evaluation", str(tmp_path / "evaluation.md")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["files"] == [
        "README.md",
        "manifest.json",
        "model.safetensors",
        "statement.json",
    ]
    assert "51 %" in (tmp_path / "out" / "README.md").read_text()
    verify([tmp_path / "out"])
    missing = [*arguments[:2], str(tmp_path / "other"), "--evaluation", str(tmp_path / "absent")]
    assert CliRunner().invoke(app, missing).exit_code == 3
