"""Where a release may go, and what becomes of one that cannot be written."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from support.drawn import contents, draw

from dpdm_cli import release, verify
from dpdm_cli.commands.console import errors_reported
from dpdm_cli.errors import ResourceError, UsageError
from dpdm_cli.publishing import releasing

PRETRAINED = Path(__file__).parents[2] / "examples" / "pretrained" / "mnist-eps10"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("release") / "synth"
    draw(PRETRAINED, out, n=2, batch_size=2, steps=1)
    return out


@pytest.mark.parametrize("place", ["out", "0/out", "../model/out", "../link/out"])
def test_nothing_is_released_into_its_own_source(tmp_path: Path, place: str) -> None:
    source = shutil.copytree(PRETRAINED, tmp_path / "model")
    (source / "0").mkdir()
    (tmp_path / "link").symlink_to(source)
    before = contents(tmp_path)
    for given in (source, tmp_path / "link"):
        with pytest.raises(UsageError, match="is in") as caught:
            release(given, source / place)
        assert "outside" in caught.value.hint
    assert contents(tmp_path) == before


def test_a_release_lies_beside_its_source_under_a_longer_name(tmp_path: Path) -> None:
    source = shutil.copytree(PRETRAINED, tmp_path / "model")
    assert release(source, tmp_path / "model-released").folder.is_dir()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        (Path, "exists"),
        (Path, "mkdir"),
        (Path, "rename"),
        (Path, "write_bytes"),
        (os, "replace"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_release_that_cannot_be_written_is_a_lack_of_resources_and_leaves_nothing(
    samples: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    number: int,
) -> None:
    real, target = getattr(module, name), tmp_path / "out"

    def refuse(*paths: Any, **named: Any) -> Any:
        if any(str(path).startswith(str(tmp_path)) for path in paths):
            raise OSError(number, os.strerror(number), str(paths[0]))
        return real(*paths, **named)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, refuse)
        with pytest.raises(ResourceError, match="cannot write") as caught:
            release(samples, target)
    assert str(target.name) in caught.value.message
    assert os.strerror(number) in caught.value.message
    assert "choose another" in caught.value.hint
    assert not list(tmp_path.iterdir())
    release(samples, target)


def test_two_releases_into_one_place_leave_the_first_that_is_whole(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, inner = tmp_path / "out", []
    real = releasing.write_set_grid

    def meanwhile(*args: Any, **named: Any) -> bool:
        monkeypatch.setattr(releasing, "write_set_grid", real)
        inner.append(release(samples, target))
        return real(*args, **named)

    monkeypatch.setattr(releasing, "write_set_grid", meanwhile)
    with pytest.raises(UsageError, match="come into being meanwhile"):
        release(samples, target)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert sorted(contents(target)) == list(inner[0].files)
    verify([target])


def test_a_release_removes_nothing_that_it_has_not_made(samples: Path, tmp_path: Path) -> None:
    other = tmp_path / ".out.part"
    other.mkdir()
    (other / "of another").write_text("mine")
    release(samples, tmp_path / "out")
    assert (other / "of another").read_text() == "mine"


def test_a_released_folder_is_as_open_to_others_as_any_new_one(
    samples: Path, tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    folder = release(samples, tmp_path / "out").folder
    assert folder.stat().st_mode == (tmp_path / "new").stat().st_mode


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_release_that_is_stopped_leaves_nothing(
    number: int,
    samples: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(releasing, "write_set_grid", lambda *_, **__: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as end, errors_reported():
        release(samples, tmp_path / "out")
    assert end.value.code == 128 + number
    assert capsys.readouterr().err.startswith("error: stopped")
    assert not list(tmp_path.iterdir())
