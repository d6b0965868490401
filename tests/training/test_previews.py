"""Grids on the way: publishable, paid for, and none of a step that the saved ledger doesn't hold."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.tiny import FewSteps
from support.trained import interrupt_after, run

from dpdm_cli import release, verify
from dpdm_cli.errors import DamagedFileError, InterruptedRunError, UsageError
from dpdm_cli.sampling import grids
from dpdm_cli.training import run as training
from dpdm_cli.training.folder.run_folder import RunFolder

pytestmark = pytest.mark.slow

NAMES = ["previews/step-0000002.png", "previews/step-0000004.png", "previews/step-0000006.png"]


@pytest.fixture(autouse=True)
def soon_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "SamplerSettings", FewSteps)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grids, "SamplerSettings", FewSteps)
        return run(tmp_path_factory.mktemp("previews") / "run", preview=2).folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_there_is_one_after_every_so_many_steps_in_the_manifest(finished: Path) -> None:
    assert RunFolder(finished).manifest().previews == NAMES
    assert [str(p.relative_to(finished)) for p in sorted(finished.glob("previews/*"))] == NAMES
    (found,) = verify([finished]).artefacts
    assert found.statement.plan.steps == 6
    assert any(line.startswith("3 previews") for line in found.checked)
    for step, name in zip((2, 4, 6), NAMES, strict=True):
        words = Image.open(finished / name).info["Description"]
        assert words.startswith(found.statement.headline)
        assert words.endswith(f"Drawn after step {step} of 6.")


def test_a_run_without_them_has_the_folder_it_had(tmp_path: Path) -> None:
    folder = run(tmp_path / "run").folder
    assert not (folder / "previews").exists()
    assert RunFolder(folder).manifest().previews == []


def test_a_step_is_in_the_saved_ledger_before_it_is_drawn_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    ordinary = training._draw_preview

    def draw(folder: RunFolder, *rest: Any) -> None:
        saved = folder.load_state()[1]
        assert saved.ledger is not None
        seen.append((saved.done, saved.ledger.steps, rest[1].done))
        ordinary(folder, *rest)

    monkeypatch.setattr(training, "_draw_preview", draw)
    run(tmp_path / "run", preview=3)
    assert seen == [(3, 3, 3), (6, 6, 6)]


def interrupted(folder: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    with monkeypatch.context() as patch:
        interrupt_after(patch, after)
        with pytest.raises(InterruptedRunError):
            run(folder, preview=2)
    return RunFolder(folder)


@pytest.mark.parametrize("after", [1, 2, 5])
def test_a_resumed_run_has_those_of_one_that_was_never_interrupted(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupted(tmp_path / "run", after, monkeypatch)
    run(folder.path, resume=True, preview=2)
    assert folder.manifest().previews == NAMES
    verify([folder.path])


def test_one_that_was_saved_and_not_drawn_is_drawn_when_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupted(tmp_path / "run", 4, monkeypatch)
    last = folder.path / NAMES[1]
    content = last.read_bytes()
    last.unlink()
    run(folder.path, resume=True, preview=2)
    assert folder.manifest().previews == NAMES
    assert last.read_bytes() == content


@pytest.mark.parametrize("every", [None, 1, 3])
def test_previews_that_would_tell_when_a_run_was_interrupted_are_refused(
    every: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupted(tmp_path / "run", 5, monkeypatch)
    with pytest.raises(UsageError, match="holds 2 previews"):
        run(folder.path, resume=True, preview=every)
    shutil.rmtree(folder.previews)
    run(folder.path, resume=True)
    assert folder.manifest().previews == []


def test_one_that_is_changed_missing_or_not_of_the_run_is_noticed(copied: Path) -> None:
    preview, stranger = copied / NAMES[0], copied / "previews" / "step-0000009.png"
    content = preview.read_bytes()
    preview.unlink()
    with pytest.raises(DamagedFileError, match="is missing"):
        verify([copied])
    preview.write_bytes(content + b" ")
    with pytest.raises(DamagedFileError, match="SHA-256"):
        verify([copied])
    preview.write_bytes(content)
    verify([copied])
    stranger.write_bytes(content)
    with pytest.raises(DamagedFileError, match="step-0000009"):
        verify([copied])


def test_they_are_released_as_pixels_and_nothing_else(finished: Path, tmp_path: Path) -> None:
    made = release(finished, tmp_path / "public")
    assert set(NAMES) < set(made.files)
    for name in NAMES:
        public = Image.open(tmp_path / "public" / name)
        assert not public.info
        assert np.array_equal(public, Image.open(finished / name))
    verify([tmp_path / "public"])
    again = release(tmp_path / "public", tmp_path / "again")
    assert again.files == made.files


@pytest.mark.parametrize("every", [0, -3])
def test_no_steps_between_two_are_refused(every: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="preview is"):
        run(tmp_path / "run", preview=every)
    assert not (tmp_path / "run").exists()
