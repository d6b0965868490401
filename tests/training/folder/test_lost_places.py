"""Disks that fill up and folders that are taken away while a run goes on: no step is lost that need not be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.trained import run

from dpdm_cli import verify
from dpdm_cli.errors import ResourceError
from dpdm_cli.training.folder import run_folder
from dpdm_cli.training.trainer import Trainer

pytestmark = pytest.mark.slow


def after_a_step(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    ordinary = Trainer.step

    def step(self: Trainer) -> None:
        ordinary(self)
        if self.done == 1:
            act()

    monkeypatch.setattr(Trainer, "step", step)


def test_a_log_that_cannot_be_written_ends_the_run_and_keeps_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    after_a_step(monkeypatch, lambda: (out / "private" / "losses.jsonl").symlink_to("/dev/full"))
    with pytest.raises(ResourceError, match="stopped after step 1") as caught:
        run(out, log_losses=True)
    assert "--resume" in caught.value.hint
    run(out, resume=True)
    (found,) = verify([out]).artefacts
    assert found.ledger.steps == 6


def test_a_folder_that_is_removed_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    after_a_step(monkeypatch, lambda: shutil.rmtree(out))
    run(out)
    verify([out])
    assert (out / "private").stat().st_mode & 0o077 == 0


def test_a_place_without_room_for_the_first_save_is_found_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(run_folder, "disk_usage", lambda path: usage._replace(free=1000))
    monkeypatch.setattr(Trainer, "step", lambda self: pytest.fail("a step was taken"))
    with pytest.raises(ResourceError, match="1,000 are free"):
        run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
