"""What reaches the screen: text, and nothing that steers it."""

from __future__ import annotations

import sys
import warnings

import pytest
from rich.table import Table
from support.command_children import command

from dpdm_cli.commands.console import Console, pairs_table, shown
from dpdm_cli.errors import DataError

HOSTILE = "\x1b[31m\x1b]0;title\x07 \x9b2J \r\x08 \u202egnp.exe :smile: [red]x[/red] \udcff"
CONTROLS = {*map(chr, range(32)), *map(chr, range(127, 160)), "\u202e", "\udcff"} - {"\n"}


def test_nothing_printed_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(verbose=True)
    console.note(HOSTILE)
    console.warn(HOSTILE)
    console.error(DataError(HOSTILE, HOSTILE))
    console.result({HOSTILE: HOSTILE})
    console.result({}, lambda: HOSTILE.replace("[", "("))
    table = Table(title=HOSTILE, caption=HOSTILE)
    table.add_column(HOSTILE)
    console.result({}, lambda: table)
    with console.progress(HOSTILE, 2, "images") as progress:
        progress.advance(2, loss=HOSTILE)
    said = "".join(capsys.readouterr())
    assert not CONTROLS.intersection(said)
    assert said.count("\\x1b") > 10
    assert ":smile:" in said


def test_ordinary_text_is_shown_as_it_is() -> None:
    for text in ("Fréchet", "two\nlines", "日本", "a" * 500):
        assert shown(text) == text


def test_titles_of_progress_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console()
    monkeypatch.setattr(console.err, "_force_terminal", True)
    with console.progress("features of [/nothing] :x:", 1, "images") as progress:
        progress.advance(1, loss="[bold]")


def test_warnings_of_libraries_reach_no_user(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpdm_cli import __main__

    shown_warnings: list[str] = []
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # `main` puts others in their place
    monkeypatch.setattr(
        "dpdm_cli.commands.app.app", lambda: warnings.warn("for programmers", stacklevel=1)
    )
    with warnings.catch_warnings():
        warnings.resetwarnings()
        monkeypatch.setattr(warnings, "showwarning", lambda *a, **k: shown_warnings.append(a[0]))
        monkeypatch.setattr("sys.warnoptions", [])
        __main__.main()
        assert not shown_warnings
        monkeypatch.setattr("sys.warnoptions", ["default"])
        warnings.resetwarnings()
        __main__.main()
        assert shown_warnings
    assert command("--version", at=tmp_path_factory.getbasetemp()).err == ""


def test_tables_keep_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Console().result({}, lambda: pairs_table({"a": 1, "b": 2}))
    assert [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()] == [
        ["a", "1"],
        ["b", "2"],
    ]


def test_lines_on_a_terminal_end_between_words_and_those_of_a_log_do_not_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = "/" + "a-very-long-folder/" * 8
    words = [f"word{i:03}" for i in range(60)] + [path, "end"]
    for is_terminal in (True, False):
        console = Console()
        monkeypatch.setattr(console.err, "_force_terminal", is_terminal)
        monkeypatch.setattr(console.err, "_color_system", None)
        console.note(" ".join(words))
        said = capsys.readouterr().err
        assert said.split() == words
        lines = said.splitlines()
        assert (len(lines) > 5) is is_terminal
        if is_terminal:
            assert all(len(line) <= 80 or line == path for line in lines)
