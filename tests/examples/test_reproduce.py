"""`examples/reproduce/run.sh`: a row that is interrupted goes on, is recorded once, and is tested once."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
WAIT = 300


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The scripts, which write beside themselves, without what was measured."""
    folder = tmp_path / "reproduce"
    shutil.copytree(
        REPOSITORY / "examples" / "reproduce",
        folder,
        ignore=shutil.ignore_patterns("grids", "__pycache__"),
    )
    (folder / "results.jsonl").write_text("")
    # Long enough to be interrupted, however fast the machine.
    script = (folder / "run.sh").read_text()
    (folder / "run.sh").write_text(script.replace("--steps 100 ", "--steps 400 "))
    (tmp_path / "bin").mkdir()
    for name, called in (("dpdm", "-m dpdm_cli"), ("python", "")):
        command = tmp_path / "bin" / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {called} "$@"\n')
        command.chmod(0o755)
    return folder


def row(copy: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    path = f"{copy.parent / 'bin'}:{os.environ['PATH']}"
    places = {"RUNS": str(copy.parent / "rows"), "PYTHONPATH": str(REPOSITORY), "PATH": path}
    return subprocess.Popen(
        ["bash", str(copy / "run.sh"), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **places, **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def lines(copy: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (copy / "results.jsonl").read_text().splitlines()]


def test_a_row_that_was_interrupted_goes_on_and_is_recorded_once(copy: Path) -> None:
    first = row(copy, "digits", "10", "tiny")
    assert first.stdout is not None
    said = ""
    while "training: " not in said:
        line = first.stdout.readline()
        assert line, said
        said += line
    os.killpg(first.pid, signal.SIGTERM)
    said += first.communicate(timeout=WAIT)[0]
    assert first.returncode != 0, said
    assert "the state is saved" in said, said
    assert lines(copy) == []

    second = row(copy, "digits", "10", "tiny")
    said = second.communicate(timeout=WAIT)[0]
    assert second.returncode == 0, said
    (found,) = lines(copy)
    assert found["steps"] == 400
    assert all(0 <= float(str(found[name])) <= 100 for name in ("logreg", "mlp", "cnn"))
    seconds = (copy.parent / "rows" / "digits-10-tiny.seconds").read_text().split()
    assert len(seconds) >= 2
    assert found["minutes"] == pytest.approx(sum(map(int, seconds)) / 60, abs=0.2)

    third = row(copy, "digits", "10", "tiny")
    said = third.communicate(timeout=WAIT)[0]
    assert third.returncode == 0, said
    assert "was recorded" in said
    assert len(lines(copy)) == 1


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """What run.sh leaves before it records a row, but for the FID."""
    plan = {"warm_start": "none", "warm_sigma": 0.0, "sigma": 1.0, "steps": 10}
    plan |= {"noise_multiplicity": 1, "sample_rate": 0.1}
    files: dict[str, dict[str, object]] = {
        "statement.json": {"epsilon": 9.9, "plan": plan},
        "private/classify.json": {"logreg": 90.0, "mlp": 91.0, "cnn": 92.0, "n": 60},
        "private/pixels.json": {"fid": {"train": 0.5}},
        "private/scattering.json": {
            "fid": {"train": 0.0175},
            "precision_recall": {"train": {"precision": 0.8, "recall": 0.6}},
        },
    }
    folder = tmp_path / "row"
    (folder / "private").mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (tmp_path / "row.seconds").write_text("60\n")
    return folder


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPOSITORY / "examples" / "reproduce"))
    return importlib.import_module("record")


def test_a_fid_stands_beside_the_papers_only_when_its_images_were_resized_alike(
    finished: Path, record: ModuleType
) -> None:
    assert record.measured(finished)["fid"] is None
    assert record.measured(finished)["distance"] == 17.5
    score = {"fid": {"train": 5.0}, "extractor": "inception"}
    file = finished / "private" / "fid.json"

    file.write_text(json.dumps(score | {"resize": "legacy_tensorflow"}))
    found = record.measured(finished)
    assert (found["fid"], found["fid_resize"]) == (5.0, "legacy_tensorflow")

    file.write_text(json.dumps(score | {"resize": "clean"}))
    with pytest.raises(SystemExit, match="--resize legacy_tensorflow"):
        record.measured(finished)


def test_a_budget_that_is_none_is_refused_before_anything_is_written(copy: Path) -> None:
    process = row(copy, "digits", "10", "cpu31")
    said = process.communicate(timeout=WAIT)[0]
    assert process.returncode == 2
    assert "unknown budget cpu31" in said
    assert not (copy.parent / "rows").exists()


def test_a_baseline_is_a_row_of_its_own(copy: Path) -> None:
    process = row(copy, "digits", "10", BASELINE="scattering")
    said = process.communicate(timeout=WAIT)[0]
    assert process.returncode == 0, said
    (found,) = lines(copy)
    assert found["budget"] == "baseline scattering"
    assert found["command"] == "BASELINE=scattering bash examples/reproduce/run.sh digits 10"
    assert float(str(found["scattering"])) > 80
    assert "logreg" not in found

    process = row(copy, "digits", "10", BASELINE="fake")
    assert "unknown BASELINE fake" in process.communicate(timeout=WAIT)[0]
    assert process.returncode == 2
    assert len(lines(copy)) == 1


def test_the_page_shows_both_baselines_in_the_columns_of_the_table(
    record: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = {"dataset": "mnist", "epsilon": 1.0, "images": 60000, "sigma": 2.0, "steps": 9}
    common |= {"minutes": 3.0, "machine": "a core", "commit": "abc"}
    rows = [
        {**common, "budget": "baseline dp-sgd", "logreg": 91.0, "mlp": 92.0, "cnn": 93.0},
        {**common, "budget": "baseline scattering", "scattering": 97.25},
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "RESULTS.md").write_text(f"before\n{record.BEGIN}{record.END}after\n")
    monkeypatch.setattr(record, "LINES", tmp_path / "results.jsonl")
    monkeypatch.setattr(record, "PAGE", tmp_path / "RESULTS.md")
    record.write_page()
    page = (tmp_path / "RESULTS.md").read_text()
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    table = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()[3:-3]]
    assert {len(cells) for cells in table} == {14}
    ours = {cells[2]: cells[3:7] for cells in table if cells[2].endswith("ours")}
    assert ours == {
        "DP-SGD on real images, ours": ["91.0", "92.0", "93.0", "60,000"],
        "scattering, private linear classifier on real images, ours": ["97.2", "", "", "60,000"],
    }
