"""Hostile mutations of every kind of file, through every command that reads it, each with limits of time and memory.

What is published, and what a run goes on from, carries digests: nothing of it that was changed may be taken for whole.
A user's own images carry none: what can be read as an image is one.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.command_children import TRAIN, Outcome, command
from support.mutations import BY_ENDING, is_same, of_prepared

_SAMPLE = ["sample", "run", "-n", "4", "-B", "2", "--steps", "1"]


def published(place: str) -> tuple[list[str], ...]:
    return ["verify", place], ["release", place, "out"]


def private(place: str) -> tuple[list[str], ...]:
    return (
        ["prepare", place, "out.safetensors"],
        ["train", place, "--preset", "small", "--public-metadata", "--dry-run"],
        ["fid", "png", "--against", place, "--extractor", "pixels"],
        ["calibrate", place, "--public-metadata", "--eps", "10"],
    )


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        file: where it lies.
        commands: those that read it.
        is_sealed: whether a changed one has to be found out.
        asks: whether it says how much is to be computed, which may be more than a machine can.
    """

    file: str
    commands: tuple[list[str], ...]
    is_sealed: bool = True
    asks: bool = False

    @property
    def ending(self) -> str:
        return self.file.rpartition(".")[2]


KINDS = {
    "model": Kind(
        "run/model.safetensors",
        # Not the folder, whose manifest tells of any change.
        (*published("run/model.safetensors"), [*_SAMPLE, "--out", "out"]),
    ),
    "statement": Kind("run/statement.json", published("run")),
    "manifest": Kind("run/manifest.json", published("run")),
    "metadata": Kind("png/metadata.json", (*published("png"), [*_SAMPLE, "--out", "png"])),
    "plan": Kind(
        "plan.json", ([*TRAIN, "--dry-run"], [*TRAIN, "--out", "out"]), is_sealed=False, asks=True
    ),
    "state": Kind(
        "run/private/state.safetensors", (["verify", "run"], [*TRAIN, "--out", "run", "--resume"])
    ),
    "prepared": Kind(
        "images.safetensors",
        (
            ["prepare", "images", "images.safetensors"],
            ["fid", "images.safetensors", "--against", "images", "--extractor", "pixels"],
            [
                *("train", "images.safetensors", "--preset", "small", "--config", "tiny.toml"),
                *("--public-metadata", "--steps", "1", "--batch-size", "4", "--delta", "1e-3"),
                *("--warm-start", "none", "--init", "none", "--out", "out"),
            ],
        ),
    ),
    "samples zip": Kind("zip/samples.zip", published("zip")),
    "samples parquet": Kind("parquet/samples.parquet", published("parquet")),
    "samples npz": Kind("npz/samples.npz", published("npz")),
    "samples PNG": Kind("png/train/0/000000.png", published("png")),
    "images zip": Kind("images.zip", private("images.zip"), is_sealed=False),
    "images npz": Kind("images.npz", private("images.npz"), is_sealed=False),
    "images PNG": Kind("images/0/0.png", private("images"), is_sealed=False),
}


def attempts(kind: Kind, home: Path, count: int) -> Iterator[tuple[int, list[str], Outcome, str]]:
    """For each mutation and command: the seed, the command, what became of it, and the fault that it shows."""
    mutate = of_prepared if kind.file == "images.safetensors" else BY_ENDING[kind.ending]
    whole = (home / kind.file).read_bytes()
    for seed in range(count):
        content, is_whole = mutate(whole, random.Random(seed))
        if is_same(content, whole, kind.ending):
            continue
        for words in kind.commands:
            with tempfile.TemporaryDirectory() as place:
                at = Path(place)
                for needed in {kind.file.split("/")[0], *words, "tiny.toml", "plan.json"}:
                    if (home / needed).is_dir():
                        shutil.copytree(home / needed, at / needed)
                    elif (home / needed).is_file():
                        shutil.copy(home / needed, at)
                (at / kind.file).write_bytes(content)
                done = command(*words, at=at)
                fault = fault_of(done, kind.is_sealed and not is_whole, kind.asks, at)
                yield seed, words, done, fault


def fault_of(done: Outcome, is_changed: bool, asks: bool, at: Path) -> str:
    if done.fault:
        return done.fault
    if "out of memory" in done.err and not asks:
        return "wants more memory than such a file is worth"
    if done.code == 0 and is_changed:
        return "taken for whole"
    if done.code and any(at.glob("out/m*")):
        return "leaves something behind"
    return ""
