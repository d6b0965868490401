"""A part of a set kept apart to test on: by person, the same each time, and for each record on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dpdm_cli.data import load_images
from dpdm_cli.data.prepare.prepared import PreparedFile
from dpdm_cli.data.prepare.preparing import PrepareResult, prepare
from dpdm_cli.errors import DataError, UsageError

BY_PERSON = {"layout": "class/person/image"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty persons of two images each, of both classes; each image has a value of its own."""
    for person in range(60):
        for image, name in enumerate("ab"):
            path = tmp_path / "scans" / name / f"mark-{person}" / f"{image}.png"
            path.parent.mkdir(parents=True)
            Image.new("L", (4, 4), 2 * person + image).save(path)
    return tmp_path / "scans"


def values(path: Path) -> list[int]:
    return load_images(path).images[:, 0, 0, 0].tolist()


def parts(folder: Path, out: Path, **options: Any) -> tuple[PrepareResult, list[int], list[int]]:
    result = prepare(folder, out, hold_out=0.3, **{**BY_PERSON, **options})
    assert result.held_out
    return result, values(result.path), values(result.held_out.path)


def test_persons_are_in_one_part_alone_and_the_files_name_each_other(
    folder: Path, tmp_path: Path
) -> None:
    result, large, small = parts(folder, tmp_path / "x.safetensors")
    assert sorted(large + small) == list(range(120))
    assert not {value // 2 for value in large} & {value // 2 for value in small}
    assert 20 <= len(small) <= 56
    for path, other, apart in (
        (result.path, result.held_out.path, False),
        (result.held_out.path, result.path, True),
    ):
        file = PreparedFile(path)
        assert file.facts.held_out.is_held_out == apart
        assert file.facts.held_out.other == other.name
        known = np.array(values(path)) // 2
        assert file.persons.tolist() == np.unique(known, return_inverse=True)[1].tolist() or len(
            set(zip(known.tolist(), file.persons.tolist(), strict=True))
        ) == len(set(known.tolist()))
        assert b"mark-" not in path.read_bytes()


def test_the_same_command_finds_both_files_and_another_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.safetensors"
    first = parts(folder, out)
    again = parts(folder, out)
    assert again[0].was_there
    assert again[0].held_out.was_there
    assert first[1:] == again[1:]
    for changes in ({"seed": 1}, {"hold_out": 0.2}, {"hold_out": None}):
        with pytest.raises(UsageError, match="held_out"):
            prepare(folder, out, **{"hold_out": 0.3, **BY_PERSON, **changes})
    assert parts(folder, tmp_path / "y.safetensors", seed=1)[2] != first[2]


@pytest.mark.parametrize("options", [BY_PERSON, {"layout": None}])
def test_a_record_less_moves_no_other(
    folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    if options["layout"] is None:
        for index, path in enumerate(sorted(folder.rglob("*.png"))):
            path.rename(folder / path.parts[-3] / f"{index}.png")
            path.parent.rmdir()
    _, large, small = parts(folder, tmp_path / "x.safetensors", **options)
    gone = sorted(folder.rglob("*.png"))[::7]
    lost = {np.asarray(Image.open(path)).flat[0] for path in gone}
    for path in gone:
        path.unlink()
    _, fewer, smaller = parts(folder, tmp_path / "y.safetensors", **options)
    assert set(fewer) == set(large) - lost
    assert set(smaller) == set(small) - lost


def test_copies_in_an_array_stay_together(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=np.concatenate([pixels, pixels]))
    result = prepare(tmp_path / "x.npz", tmp_path / "x.safetensors", hold_out=0.5)
    one, other = load_images(result.path).images, load_images(result.held_out.path).images
    assert not {image.numpy().tobytes() for image in one} & {i.numpy().tobytes() for i in other}


@pytest.mark.parametrize(
    ("share", "kind"),
    [(0, UsageError), (1, UsageError), (float("nan"), UsageError), (1e-9, DataError)],
)
def test_a_share_that_leaves_nothing_on_one_side_is_refused(
    folder: Path, tmp_path: Path, share: float, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        prepare(folder, tmp_path / "x.safetensors", hold_out=share, **BY_PERSON)
    assert not [*tmp_path.glob("*.safetensors")]
