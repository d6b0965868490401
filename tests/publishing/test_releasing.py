"""Release: what may be published comes along, nothing else does."""

from __future__ import annotations

import getpass
import io
import json
import os
import re
import shutil
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image, PngImagePlugin
from support.drawn import contents
from support.traces import (
    arrays_of,
    chunks,
    files_in,
    itxt_length,
    shape_of_release,
    training_images_among,
    unpacked,
    words_of,
)
from typer.testing import CliRunner

from dpdm_cli import release, sample, train, verify
from dpdm_cli.commands.app import app
from dpdm_cli.data import load_images
from dpdm_cli.diffusion.generation import SamplerSettings
from dpdm_cli.errors import DamagedFileError, DataError, PrivacyError, UsageError
from dpdm_cli.files import sha256_of
from dpdm_cli.privacy.accounting.claims import planned
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.plan_file import write_plan_file
from dpdm_cli.sampling import grids
from dpdm_cli.sampling.png import XMP_MARK
from dpdm_cli.sampling.sample_metadata import _seal_of
from dpdm_cli.sampling.writing import FORMATS

pytestmark = pytest.mark.slow

MARKED = "zaphod-the-marked"
USER = "trillian-the-user"
STATED_SIZE = 1777

STATED: dict[str, Any] = {
    "dataset_size": STATED_SIZE,
    "classes": ("left", "right"),
    "image_size": 8,
    "channels": 1,
}

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


@pytest.fixture(scope="module", autouse=True)
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Somebody whose name could be recognised."""
    tmp_path_factory.getbasetemp()  # pytest calls it by the user's name; no folder of somebody's is left behind
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
            patch.setenv(variable, USER)
        assert getpass.getuser() == USER
        yield


@pytest.fixture(scope="module")
def run(private_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "run"
    train(str(private_images), folder, **STATED, delta=1e-4, epsilon=8.0, **TINY)
    sample(folder, n=24, sampler=SamplerSettings(steps=2))
    return folder


@pytest.fixture(scope="module", params=FORMATS)
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
            f"train/{name}/{i:06d}.png" for i in range(24) for name in [("left", "right")[i % 2]]
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
        USER,
        str(private_images),
        str(run.parent),
        socket.gethostname(),
        os.uname().nodename,
        "rng",
        "generator_state",
        "salt",
        "fingerprint",
        *(repr(loss)[:9] for loss in losses if loss),
    ]
    # The real number of images, and that of each class.
    numbers = re.compile(r"(?<![\w.,])(74|37)(?![\w.,])")
    for folder in released:
        for name, content in files_in(folder):
            for text in (name, *words_of(name, content)):
                for word in words:
                    assert word not in text, (name, word)
                assert not numbers.search(text), name


def test_a_picture_or_archive_holds_nothing_beside_what_it_is_for(
    released: tuple[Path, Path],
) -> None:
    for folder in released:
        for name, content in files_in(folder):
            if name.endswith(".png"):
                assert chunks(content) == ["IHDR", "iTXt", "IDAT", "IEND"], name
                assert content.count(XMP_MARK.encode()) == 1
                assert content[33:].startswith(itxt_length(XMP_MARK)), name
            if name.endswith((".npz", ".zip")):
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    members = archive.infolist()
                    assert {member.date_time for member in members} == {(1980, 1, 1, 0, 0, 0)}
                    # Nothing before, between or behind the members that opening it would not show.
                    assert members[0].header_offset == 0
                    assert not archive.comment
                    assert {member.filename for member in members} <= {
                        *("images.npy", "labels.npy", "classes.npy", "metadata.npy"),
                        *(
                            "metadata.json",
                            "metadata.jsonl",
                            *(f"train/left/{i:06d}.png" for i in range(0, 24, 2)),
                        ),
                        *(f"train/right/{i:06d}.png" for i in range(1, 24, 2)),
                    }


def test_no_training_image_is_among_what_is_released(
    released: tuple[Path, Path], private_images: Path
) -> None:
    for folder in released:
        files = files_in(folder)
        assert sum(len(arrays_of(*file)) for file in files) > 1  # there is something to look at
        assert not training_images_among(files, private_images)


@pytest.mark.parametrize("place", ["file.png", "grid.png", "a.zip", "a.npz", "a.safetensors"])
def test_a_training_image_would_be_found_wherever_it_is_hidden(
    place: str, private_images: Path
) -> None:
    planted = load_images(str(private_images)).images[41]
    drawn = torch.randint(0, 255, (5, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    drawn[3] = planted
    content = io.BytesIO()
    if place == "file.png":
        Image.fromarray(planted[0].numpy()).save(content, "PNG")
    elif place == "grid.png":
        grids.grid_picture([("", drawn)], "a caption").save(content, "PNG")
    elif place == "a.npz":
        np.savez(content, images=drawn[:, 0].numpy())
    elif place == "a.zip":
        with zipfile.ZipFile(content, "w") as archive:
            member = io.BytesIO()
            Image.fromarray(planted[0].numpy()).save(member, "PNG")
            archive.writestr("left/000003.png", member.getvalue())
    else:
        hidden = {"weight": torch.cat([torch.randn(3, 64), drawn[3].view(1, 64) / 127.5 - 1])}
        content.write(safetensors.torch.save(hidden))
    assert training_images_among(unpacked(place, content.getvalue()), private_images)


def test_more_than_may_be_published_is_refused(run: Path, tmp_path: Path) -> None:
    synth = shutil.copytree(run / "synth", tmp_path / "synth")
    metadata = json.loads((synth / "metadata.json").read_text())
    metadata["losses"] = [1.0]
    metadata["description_sha256"] = _seal_of(metadata)
    (synth / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(DamagedFileError, match="losses"):
        release(synth, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def sealed_again(folder: Path, name: str) -> None:
    """Enter the digest of a changed file where it belongs, as somebody would who changes it on purpose."""
    path = folder / ("manifest.json" if name == "samples.png" else "metadata.json")
    values = json.loads(path.read_text())
    digests = values["sha256"] if name == "samples.png" else values["files_sha256"]
    digests[name] = sha256_of(folder / name)
    if name != "samples.png":
        values["description_sha256"] = _seal_of(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("name", ["samples.png", "grid.png"])
def test_pictures_are_drawn_anew(run: Path, tmp_path: Path, name: str) -> None:
    """Even a foreign one whose digest fits does not come along: a digest shows damage, not forgery."""
    place = shutil.copytree(run if name == "samples.png" else run / "synth", tmp_path / "place")
    drawn = Image.open(place / name).convert("RGB").tobytes()
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", MARKED)
    Image.new("RGB", (40, 40), (1, 77, 3)).save(place / name, pnginfo=notes)
    with pytest.raises(DamagedFileError, match=name):
        release(place, tmp_path / "out")
    sealed_again(place, name)
    release(place, tmp_path / "out")
    assert MARKED.encode() not in (tmp_path / "out" / name).read_bytes()
    with Image.open(tmp_path / "out" / name) as picture:
        assert picture.tobytes() == drawn


def test_a_release_is_what_was_drawn_and_a_release_of_it_is_the_same(
    released: tuple[Path, Path], tmp_path: Path
) -> None:
    """Written anew, not copied; and yet, where nothing foreign was in it, the same images to the byte."""
    samples = released[1]
    drawn = samples.with_name(samples.name.replace("samples", "drawn"))
    facts = [json.loads((place / "metadata.json").read_text()) for place in (drawn, samples)]
    for values in facts:
        del values["files_sha256"], values["description_sha256"]
    assert facts[0] == facts[1]
    release(samples, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(samples)
    release(released[0], tmp_path / "model")
    assert contents(tmp_path / "model") == contents(released[0])


def test_private_and_unfinished_and_unclaimed_sources_are_refused(
    run: Path, tmp_path: Path
) -> None:
    with pytest.raises(PrivacyError, match="private"):
        release(run / "private", tmp_path / "out")
    with pytest.raises(PrivacyError, match="private"):
        release(run / "private" / "state.safetensors", tmp_path / "out")
    for place in (tmp_path / "private" / "a" / "b", tmp_path / "elsewhere"):
        shutil.copytree(run, place)
    (tmp_path / "linked").symlink_to(tmp_path / "private" / "a")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "private").symlink_to(tmp_path / "elsewhere")
    for below in ("private/a/b", "linked/b", "x/private", "x/private/../private/synth"):
        for source in (tmp_path / below, tmp_path / below / "model.safetensors"):
            with pytest.raises(PrivacyError, match="is under private/"):
                release(source, tmp_path / "out")
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


def test_what_private_holds_is_vouched_for_by_nobody(run: Path, tmp_path: Path) -> None:
    """A run's own stays where it is; in what was released it is foreign."""
    (left,) = [line for line in verify([run]).artefacts[0].checked if "private/" in line]
    assert "not to be published" in left
    release(run, tmp_path / "released")
    assert not [
        line for line in verify([tmp_path / "released"]).artefacts[0].checked if "private" in line
    ]
    (tmp_path / "released" / "private").mkdir()
    (tmp_path / "released" / "private" / "notes.txt").write_text("image 17")
    for attempt in (verify, lambda paths: release(*paths, tmp_path / "again")):
        with pytest.raises(DamagedFileError, match="1 entry is not in its manifest, 'private'"):
            attempt([tmp_path / "released"])


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


def test_removing_the_only_image_of_a_class_changes_weights_and_pixels_alone(
    run: Path, tmp_path: Path
) -> None:
    plan = PrivacyPlan.from_dict(json.loads((run / "statement.json").read_text())["plan"])
    write_plan_file(tmp_path / "plan.json", planned(plan))
    options = {
        "plan": tmp_path / "plan.json",
        **STATED,
        "classes": ("left", "middle", "right"),
        "multipliers": (1,),
        "micro_batch": 16,
        **{name: TINY[name] for name in ("width", "embedding")},
    }
    folder = tmp_path / "images"
    generator = np.random.default_rng(4)
    for name, count in (("left", 20), ("middle", 1), ("right", 15)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")

    def published(home: Path) -> list[dict[str, Any]]:
        home.mkdir()
        train(str(folder), home / "run", **options)
        release(home / "run", home / "model")
        for format in FORMATS:
            drawn = home / f"drawn-{format}"
            sample(home / "run", drawn, format=format, n=6, sampler=SamplerSettings(steps=2))
            release(drawn, home / format)
        # Of the run's own folder all but private/ may be published too.
        shutil.rmtree(home / "run" / "private")
        return [shape_of_release(home / part) for part in ("model", *FORMATS, "run")]

    whole = published(tmp_path / "whole")
    (folder / "middle" / "0.png").unlink()
    without = published(tmp_path / "without")
    assert any(name.startswith("train/middle/") for name in whole[1])
    for one, other in zip(whole, without, strict=True):
        assert one == other
