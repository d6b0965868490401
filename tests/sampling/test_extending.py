"""A set that is asked for again with more images: the first ones stay, and the whole is what would have been drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.drawn import STATEMENT, Listener, contents, draw, save

from dpdm_cli import errors
from dpdm_cli.privacy.public_inputs import PublicInputs
from dpdm_cli.privacy.statement import private_statement
from dpdm_cli.publishing.releasing import release
from dpdm_cli.publishing.verifying import verify
from dpdm_cli.sampling.sample_folder import SampleFolder
from dpdm_cli.sampling.writing import FORMATS, Format


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a claim that holds."""
    public = PublicInputs(
        dataset_size="stated", classes="stated", image_size="stated", channels="stated"
    )
    statement = private_statement(STATEMENT.ledger, public)
    return save(tmp_path_factory.mktemp("model") / "model.safetensors", statement=statement)


def stop(checkpoint: Path, out: Path, after: int, **changes: Any) -> None:
    with pytest.raises(errors.InterruptedRunError):
        draw(checkpoint, out, reporter=Listener(stop_after=after), **changes)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("n", [1, 24, 30])
def test_an_extended_set_is_one_that_was_drawn_at_once(
    checkpoint: Path, tmp_path: Path, format: Format, n: int
) -> None:
    """Below one batch, at the end of one, and within one; of 8 images each."""
    draw(checkpoint, tmp_path / "out", n=n, format=format)
    extended = draw(checkpoint, tmp_path / "out", n=43, format=format)
    fresh = draw(checkpoint, tmp_path / "fresh", n=43, format=format)
    assert (extended.n, extended.drawn) == (43, 43 - n)
    assert extended.metadata == fresh.metadata
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    verify(tmp_path / "out")


def test_images_that_are_there_are_never_written_again(checkpoint: Path, tmp_path: Path) -> None:
    """They may be of another device, and differ by rounding from what is drawn now."""
    out = tmp_path / "out"
    draw(checkpoint, out, n=30)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.glob("*/*.png")}
    assert draw(checkpoint, out, n=43).drawn == 13
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in before} == before


@pytest.mark.parametrize("format", FORMATS)
def test_an_interrupted_extension_goes_on_and_can_grow_meanwhile(
    checkpoint: Path, tmp_path: Path, format: Format
) -> None:
    out = tmp_path / "out"
    draw(checkpoint, out, n=20, format=format)
    stop(checkpoint, out, after=1, n=43, format=format)
    with pytest.raises(errors.DataError, match="not complete"):
        verify(out)
    with pytest.raises(errors.UsageError, match="n is 43 there, 20 now"):
        draw(checkpoint, out, n=20, format=format)
    stop(checkpoint, out, after=1, n=60, format=format)
    assert draw(checkpoint, out, n=60, format=format).drawn == 60 - 20 - 4 - 8
    draw(checkpoint, tmp_path / "fresh", n=60, format=format)
    assert contents(out) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("format", FORMATS)
def test_a_process_killed_when_the_larger_set_was_written_down_loses_nothing(
    checkpoint: Path, tmp_path: Path, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    draw(checkpoint, out, n=20, format=format)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            draw(checkpoint, out, n=43, format=format)
    folder = SampleFolder(out)
    assert folder.is_complete
    assert folder.recorded
    assert folder.recorded.n == 20
    draw(checkpoint, out, n=43, format=format)
    draw(checkpoint, tmp_path / "fresh", n=43, format=format)
    assert contents(out) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("format", FORMATS)
def test_images_that_were_changed_are_not_extended(
    checkpoint: Path, tmp_path: Path, format: Format
) -> None:
    out = tmp_path / "out"
    images = draw(checkpoint, out, n=20, format=format).images
    victim = next(out.rglob("train/*/*.png")) if format == "png" else images
    victim.write_bytes(victim.read_bytes()[:-1])
    before = contents(out)
    with pytest.raises(errors.DamagedFileError, match="aren't those that were drawn"):
        draw(checkpoint, out, n=43, format=format)
    assert contents(out) == before


def test_what_was_released_grows_where_it_came_from(checkpoint: Path, tmp_path: Path) -> None:
    draw(checkpoint, tmp_path / "out", n=20)
    release(tmp_path / "out", tmp_path / "released")
    before = contents(tmp_path / "released")
    with pytest.raises(errors.UsageError, match="was released with 20 images; 43 are asked for"):
        draw(checkpoint, tmp_path / "released", n=43)
    assert contents(tmp_path / "released") == before


def test_labels_that_begin_alike_extend_a_set_and_others_do_not(
    checkpoint: Path, tmp_path: Path
) -> None:
    """Of 2 images only the first two labels are recorded."""
    labels = ["cat", "dog", "cat", "eel"]
    draw(checkpoint, tmp_path / "out", n=2, labels=labels)
    with pytest.raises(errors.UsageError, match=r"n is 2 there, 8 now|drawn is"):
        draw(checkpoint, tmp_path / "out", n=8, labels=["cat", "eel"])
    draw(checkpoint, tmp_path / "out", n=8, labels=labels)
    draw(checkpoint, tmp_path / "fresh", n=8, labels=labels)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
