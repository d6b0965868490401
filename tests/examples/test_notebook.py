"""The notebook runs from its first cell to its last, and is kept without output."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "dpdm.ipynb"
SHORT = "steps, images, epochs = 10, 60, 2"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_kept_without_output(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.slow
def test_the_notebook_runs_in_short_form(
    notebook: nbformat.NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = notebook.cells[1]
    head, _, _ = settings.source.rpartition("\n")
    assert settings.source.rpartition("\n")[2].startswith("steps, images, epochs = ")
    settings.source = f"{head}\n{SHORT}"
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    home = tmp_path / "runs" / "notebook"
    page = (home / "report.html").read_text(encoding="utf-8")
    assert "60 synthetic images" in page
    assert (home / "published-images" / "README.md").is_file()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in shown)
