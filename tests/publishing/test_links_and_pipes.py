"""What is neither a file nor a folder: nobody publishes it, nobody waits for it, nobody reads it without end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command_children import command
from support.drawn import draw

pytestmark = pytest.mark.slow

PRETRAINED = Path(__file__).parents[2] / "examples" / "pretrained" / "mnist-eps10"

INTO: dict[str, Callable[[Path], None]] = {
    "a link to a file": lambda place: place.symlink_to(PRETRAINED / "statement.json"),
    "a link to nothing": lambda place: place.symlink_to("nothing"),
    "a link to itself": lambda place: place.symlink_to(place),
    "a link to a folder": lambda place: place.symlink_to("/"),
    "a device": lambda place: place.symlink_to("/dev/zero"),
    "a pipe": lambda place: os.mkfifo(place),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("whole")
    shutil.copytree(PRETRAINED, home / "run")
    draw(PRETRAINED, home / "png", n=4, batch_size=2, steps=1)
    draw(PRETRAINED, home / "npz", n=4, format="npz", steps=1)
    return home


@pytest.mark.parametrize("what", INTO)
@pytest.mark.parametrize(
    "place",
    [
        *("run/model.safetensors", "run/samples.png", "run/manifest.json", "run/more"),
        *(
            "png/train/0",
            "png/train/0/000000.png",
            "png/train/0/more",
            "png/more",
            "png/grid.png",
            "png/metadata.json",
        ),
        *("npz/samples.npz", "npz/metadata.json"),
    ],
)
def test_what_is_no_file_is_refused(place: str, what: str, whole: Path, tmp_path: Path) -> None:
    name = place.split("/")[0]
    shutil.copytree(whole / name, tmp_path / name)
    there = tmp_path / place
    shutil.rmtree(there) if there.is_dir() else there.unlink(missing_ok=True)
    INTO[what](there)
    for words in (["verify", name], ["release", name, "out"], ["report", name]):
        done = command(*words, at=tmp_path)
        assert not done.fault, done.err
        assert done.code in (3, 4)
        assert not (tmp_path / "out").exists()
    if there.name not in ("manifest.json", "metadata.json"):
        assert f"{place.split('/', 1)[1]}" in done.err


def test_a_link_to_a_set_is_that_set(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(whole / "png")
    assert command("verify", "link", at=tmp_path).code == 0


def test_an_image_of_any_size_is_not_read_into_memory(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "png", tmp_path / "png")
    os.truncate(tmp_path / "png" / "train" / "0" / "000000.png", 1 << 31)
    done = command("verify", "png", at=tmp_path, memory=3 << 29)  # of 2 << 30
    assert done.code == 4, done.err
