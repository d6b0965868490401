"""Where a release may go, and what becomes of one that cannot be written."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.drawn import contents, draw

from dpdm_cli import release
from dpdm_cli.errors import ResourceError, UsageError

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
        with pytest.raises(UsageError, match="lies in") as caught:
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
