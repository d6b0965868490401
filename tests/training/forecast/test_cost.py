"""What a run takes is put together from its own parts, timed on rows that hold no data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import trained

from dpdm_cli import dry_run
from dpdm_cli.data import load_images
from dpdm_cli.training.config.run_spec import RunSpec
from dpdm_cli.training.forecast import cost
from dpdm_cli.training.forecast.found import found_in
from dpdm_cli.training.trainer import Trainer

CPU = torch.device("cpu")
FIXED, IMAGE, OTHER = 0.5, 0.01, 3.0


@pytest.fixture
def a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes so long, and so long for each image; anything else takes the same time."""

    def seconds(clock: cost._Clock, work: Callable[[], object]) -> tuple[float, float]:
        work()
        taken = OTHER
        if getattr(work, "__func__", None) is Trainer.step:
            taken = FIXED + IMAGE * work.__self__.images_seen  # type: ignore[attr-defined]
        return taken, taken

    monkeypatch.setattr(cost._Clock, "_time", seconds)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def spec(data: str = "digits", **changes: Any) -> RunSpec:
    asked = {name: trained.TINY[name] for name in ("width", "multipliers", "embedding", "device")}
    return dry_run(data, preset="small", **asked, **changes)


@pytest.mark.usefixtures("a_clock")
@pytest.mark.parametrize(
    "asked",
    [
        {"steps": 40, "batch_size": 100},
        {"steps": 1, "batch_size": 1},
        {"steps": 10, "batch_size": 1438, "noise_multiplicity": 3},
        {"steps": 40, "batch_size": 100, "private": False},
        {"steps": 40, "batch_size": 100, "warm_start": "none"},
    ],
    ids=str,
)
def test_the_steps_take_what_each_does_for_the_expected_batch(asked: dict[str, Any]) -> None:
    run = spec(**asked)
    found = cost.measure(run, CPU)
    # A batch of a step that is to be all but empty may hold an image, by chance.
    expected = asked["steps"] * (FIXED + IMAGE * asked["batch_size"])
    assert found.steps == pytest.approx(expected, rel=0.05)
    assert (found.warm_start > 0) == bool(run.plan and run.plan.warm_releases)
    assert found.seconds == pytest.approx(found.steps + found.warm_start + found.grid)


@pytest.mark.usefixtures("a_clock")
def test_a_run_of_persons_is_timed_by_grey_ones(tmp_path: Path) -> None:
    people = tmp_path / "people.npz"
    images, persons = np.zeros((60, 8, 8), np.uint8), np.arange(60) // 3
    np.savez(people, images=images, persons=persons)
    asked = {"steps": 40, "batch_size": 10, "unit": "person", "dataset_size": 20}
    run = spec(str(people), public_metadata=True, delta=1e-3, warm_start="none", **asked)
    assert cost.measure(run, CPU).steps == pytest.approx(40 * (FIXED + IMAGE * 10), rel=0.05)


@pytest.mark.usefixtures("a_clock")
def test_previews_take_as_long_as_so_many_grids() -> None:
    found = cost.measure(spec(), CPU, previews=7)
    assert found.previews == pytest.approx(7 * found.grid)
    assert found.thousand == pytest.approx(found.grid * 1000 / 80)


def test_grey_rows_are_all_the_same_one() -> None:
    run = spec()
    grey = cost._grey(run, 100_000)
    assert grey.images.shape == (100_000, 1, 8, 8)
    assert grey.images.untyped_storage().nbytes() == 1
    assert grey.labels is not None
    assert not grey.labels.any()
    assert len(grey.classes) == run.network.classes


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.01, "1 s"),
        (44.4, "44 s"),
        (100, "1.7 min"),
        (1000, "17 min"),
        (9000, "2.5 hours"),
        (400000, "4.6 days"),
    ],
)
def test_durations_have_two_digits_and_a_unit(seconds: float, text: str) -> None:
    assert cost.duration(seconds) == text


def test_classes_are_counted_for_the_eyes_of_whoever_has_the_images(tmp_path: Path) -> None:
    images = load_images(trained.digits_folder(tmp_path / "images", 40))
    counts = torch.bincount(images.labels).tolist() if images.labels is not None else []
    said = found_in(images)
    assert said.startswith(
        f"found {len(images.images):,} images, 8x8, grey, {len(counts)} classes: "
    )
    for name, count in zip(images.classes, counts, strict=True):
        assert f"{name} {count}" in said
