"""A run where images are wanted, images where a run is wanted, and what is not finished: each is told what to give."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.drawn import Listener, draw, save
from typer.testing import CliRunner

import dpdm_cli
from dpdm_cli import errors
from dpdm_cli.checkpoint import write_tensors
from dpdm_cli.commands.app import app


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "300"})
    return result.exit_code, result.stderr


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """What matters of a run's folder here."""
    folder = tmp_path / "run"
    (folder / "private").mkdir(parents=True)
    (folder / "private" / "state.safetensors").write_bytes(b"{}")
    save(folder / "model.safetensors")
    return folder


@pytest.fixture
def unfinished(trained: Path) -> Path:
    (trained / "model.safetensors").unlink()
    return trained


IMAGES_WANTED = [
    ("classify", "{}"),
    ("classify", "{}", "--test", "digits"),
    ("classify", "--baseline", "real", "--test", "{}"),
    ("fid", "{}", "--against", "digits", "--extractor", "pixels"),
    ("fid", "digits", "--against", "{}", "--extractor", "pixels"),
    ("train", "{}", "--out", "x", "--public-metadata"),
    ("prepare", "{}", "x.safetensors"),
]

MODEL_WANTED = [
    ("sample", "{}", "-n", "3"),
    ("audit", "{}"),
    ("train", "digits", "--out", "x", "--init-from", "{}"),
]


@pytest.mark.parametrize("words", IMAGES_WANTED, ids=" ".join)
def test_a_run_where_images_are_wanted(
    words: tuple[str, ...], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.parent)
    code, said = run(*(word.format(trained) for word in words))
    assert code == 3
    assert f"error: {trained} is a training run, not images\n" in said
    assert f"dpdm sample {trained} -n 10000" in said
    draw(trained, trained / "synth", n=3)
    code, said = run(*(word.format(trained) for word in words))
    assert code == 3
    assert f"give the images that were drawn from it: {trained / 'synth'}\n" in said


@pytest.mark.parametrize("words", MODEL_WANTED, ids=" ".join)
def test_images_where_a_run_is_wanted(
    words: tuple[str, ...], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for synth, advice in (
        (trained / "synth", f"give the run that they were drawn from: {trained}"),
        (tmp_path / "moved", "give the run, or the model.safetensors, that they were drawn from"),
    ):
        draw(trained, synth, n=3)
        code, said = run(*(word.format(synth) for word in words))
        assert code == 3
        assert f"error: {synth} is a set of synthetic images, not a model\n" in said
        assert advice in said


@pytest.mark.parametrize("words", [*IMAGES_WANTED, *MODEL_WANTED], ids=" ".join)
def test_a_run_that_is_not_finished(
    words: tuple[str, ...], unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(unfinished.parent)
    code, said = run(*(word.format(unfinished) for word in words))
    assert code == 3
    assert f"error: {unfinished} is a training run that is not finished\n" in said
    assert "--resume" in said


@pytest.mark.parametrize("words", [("verify", "{}"), ("release", "{}", "x")], ids=" ".join)
def test_an_unfinished_run_is_neither_verified_nor_released(
    words: tuple[str, ...], unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(unfinished.parent)
    code, said = run(*(word.format(unfinished) for word in words))
    assert code == 3
    assert "this run is not finished" in said
    assert "--resume" in said


@pytest.mark.parametrize("words", [words for words in IMAGES_WANTED if words[1] == "{}"][:3])
def test_images_that_are_still_being_drawn_are_not_scored(
    words: tuple[str, ...], trained: Path
) -> None:
    synth = trained / "synth"
    with pytest.raises(errors.InterruptedRunError):
        draw(trained, synth, reporter=Listener(stop_after=1))
    code, said = run(*(word.format(synth) for word in words))
    assert code == 3
    assert f"error: {synth}: these samples are not complete\n" in said
    assert "repeat the same `dpdm sample`" in said


def test_a_state_where_a_model_is_wanted_names_the_model(trained: Path) -> None:
    state = trained / "private" / "state.safetensors"
    write_tensors(state, {}, "state", {})
    code, said = run("sample", state, "-n", 3)
    assert code == 3
    assert "this is a state file, expected a model file\n" in said
    assert "give a model.safetensors of a run" in said


def test_a_folder_of_anything_is_told_what_it_lacks(tmp_path: Path) -> None:
    code, said = run("sample", tmp_path, "-n", 3)
    assert code == 3
    assert "there is no model.safetensors in this folder" in said


def test_one_path_is_verified_as_it_is(trained: Path) -> None:
    missing = trained.parent / "nothing"
    for path in (missing, str(missing)):
        with pytest.raises(errors.DataError, match="no such file"):
            dpdm_cli.verify(path)
