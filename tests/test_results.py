"""What a caller from Python sees: warnings, short results, and in a notebook their pictures and progress."""

from __future__ import annotations

import base64
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.drawn import draw, save

import dpdm_cli
from dpdm_cli.privacy.statement import non_private_statement
from dpdm_cli.reporter import (
    CallerReporter,
    DpdmWarning,
    NotebookProgress,
    SilentReporter,
    heard,
    in_notebook,
)
from dpdm_cli.results import Result


class Shell:
    """What IPython is to us: a kernel, and displays that can be replaced."""

    def __init__(self) -> None:
        self.kernel = object()
        self.shown: list[str] = []

    def display(self, what: Any, display_id: bool) -> Any:
        assert display_id
        self.shown.append(what._repr_html_())
        return types.SimpleNamespace(update=lambda w: self.shown.append(w._repr_html_()))


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    found = Shell()
    display = types.ModuleType("IPython.display")
    display.__dict__["display"] = found.display
    package = types.ModuleType("IPython")
    package.__dict__.update(get_ipython=lambda: found, display=display)
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return found


def test_warnings_are_python_s_and_stand_at_the_caller_s_line(tmp_path: Path) -> None:
    model = save(tmp_path / "model.safetensors", statement=non_private_statement(3))
    with pytest.warns(DpdmWarning, match="NOT PRIVATE") as caught:
        dpdm_cli.sample(model, tmp_path / "out", n=2, steps=1, device="cpu")
    assert caught[0].filename == __file__


def test_warnings_can_be_turned_into_errors_or_off(tmp_path: Path) -> None:
    model = save(tmp_path / "model.safetensors", statement=non_private_statement(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DpdmWarning)
        with pytest.raises(DpdmWarning):
            dpdm_cli.sample(model, tmp_path / "out", n=2, steps=1, device="cpu")
        dpdm_cli.sample(
            model, tmp_path / "out", n=2, steps=1, device="cpu", reporter=SilentReporter()
        )


def test_one_reporter_is_heard_and_those_of_further_processes_are_not() -> None:
    mine = SilentReporter()
    assert heard(mine) is mine
    assert isinstance(heard(None), CallerReporter)
    assert type(heard(mine, is_first=False)) is SilentReporter
    assert heard(mine, is_first=False) is not mine


def test_no_progress_is_shown_outside_of_notebooks(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
    with CallerReporter().progress("drawing", 3, "images") as bar:
        bar.advance(3)
    assert capfd.readouterr() == ("", "")


def test_a_shell_without_a_kernel_is_no_notebook(shell: Shell) -> None:
    assert in_notebook()
    shell.kernel = None  # type: ignore[assignment]
    assert not in_notebook()


def test_a_notebook_shows_progress_that_ends_at_the_whole(shell: Shell, tmp_path: Path) -> None:
    model = save(tmp_path / "model.safetensors")
    draw(model, tmp_path / "out", n=30)
    assert shell.shown[0].startswith('<progress value="8" max="30">')
    assert shell.shown[-1].startswith('<progress value="30" max="30">')
    assert "sampling: 30/30 images" in shell.shown[-1]


def test_what_a_notebook_shows_of_a_task_is_text() -> None:
    bar = NotebookProgress("<b>", 10, "steps", 5)
    bar._done, bar._fields = 6, {"epsilon": "<= 1.00 of 2.00"}
    html = bar._repr_html_()
    assert "&lt;b&gt;: 6/10 steps, epsilon &lt;= 1.00 of 2.00" in html
    assert "s left" in html


def test_a_result_is_one_line_and_in_a_notebook_its_picture(tmp_path: Path) -> None:
    result = draw(save(tmp_path / "model.safetensors"), tmp_path / "out", n=3)
    assert repr(result) == (
        f"<SampleResult: 3 images in {tmp_path / 'out'}; {result.metadata.statement.headline}>"
    )
    html = result._repr_html_()
    head, _, content = html.partition('<img src="data:image/png;base64,')
    assert head == f"<p>{result.summary}</p>"
    grid = base64.b64decode(content.removesuffix('">'))
    assert grid == (tmp_path / "out" / "grid.png").read_bytes()
    (tmp_path / "out" / "grid.png").unlink()
    assert "<img" not in result._repr_html_()


def test_a_summary_is_shown_as_text() -> None:
    class Odd(Result):
        summary = "<script>"  # type: ignore[assignment]

    assert Odd()._repr_html_() == "<p>&lt;script&gt;</p>"
    assert repr(Odd()) == "<Odd: <script>>"


def test_scores_show_their_confusion_matrices(tmp_path: Path) -> None:
    for place in ("synth", "real"):
        for name, shade in (("dark", 0), ("light", 255)):
            (tmp_path / place / name).mkdir(parents=True)
            for i in range(10):
                Image.new("L", (8, 8), abs(shade - i)).save(tmp_path / place / name / f"{i}.png")
    with pytest.warns(DpdmWarning, match="not covered"):
        result = dpdm_cli.classify(
            tmp_path / "synth", test=tmp_path / "real", models=["logreg"], epochs=1
        )
    assert "always dark: 50.0 %" in repr(result)
    assert "(balanced" in repr(result)
    assert "data:image/png;base64," in result._repr_html_()


@pytest.mark.parametrize("name", ["calibrate", "dry_run"])
def test_results_are_short(name: str) -> None:
    arguments = {"calibrate": {"epsilon": 10.0}, "dry_run": {"preset": "small"}}[name]
    shown = repr(getattr(dpdm_cli, name)("digits", **arguments))
    assert "\n" not in shown
    assert len(shown) < 200
    assert "epsilon 10.00" in shown or "epsilon 9.99" in shown
