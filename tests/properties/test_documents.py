"""What the Markdown files say is there, is there: links, headings, files, commands and their options."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import dpdm_cli
from dpdm_cli.commands.app import app

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / ".github").rglob("*.md"),
        *(REPOSITORY / "examples").rglob("*.md"),
    ]
)
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OPTIONS = {
    name: {word for option in command.params for word in (*option.opts, *option.secondary_opts)}
    for name, command in COMMANDS.items()
}

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CALL = re.compile(r"(?:\bdpdm|-m dpdm_cli) +([a-z]+)\b(.*)")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The fragments that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def calls(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The command lines of `dpdm` in the fenced blocks of a page: name and arguments."""
    text = page.read_text(encoding="utf-8")
    shell = [body for kind, body in FENCE.findall(text) if kind in ("bash", "sh")]
    shell += [
        line[2:]
        for _, body in FENCE.findall(text)
        for line in body.splitlines()
        if line[:2] == "$ "
    ]
    for block in shell:
        for line in block.replace("\\\n", " ").splitlines():
            for name, rest in CALL.findall(re.split(r"\s#\s", line)[0]):
                yield name, shlex.split(re.split(r";|&&|\||>", rest)[0])


def inline(page: Path) -> list[str]:
    return [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose(page))]


def test_there_are_pages_with_links_and_commands() -> None:
    assert REPOSITORY / "README.md" in PAGES
    assert sum(len(LINK.findall(prose(page))) for page in PAGES) > 30
    assert {name for page in PAGES for name, _ in calls(page)} == set(COMMANDS)


@pages
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, fragment = link.partition("#")
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), link
        if fragment:
            assert fragment in anchors(found), link


@pages
def test_every_command_that_is_shown_parses(page: Path) -> None:
    for name, arguments in calls(page):
        assert name in COMMANDS, name
        COMMANDS[name].make_context(name, arguments)


@pages
def test_every_option_and_file_that_is_named_is_there(page: Path) -> None:
    for code in inline(page):
        options = set(re.findall(r"(?<!\S)--?[a-zA-Z][a-z-]*", code))
        if code.startswith("-"):
            assert options <= set().union(*OPTIONS.values()), code
        elif called := re.match(r"dpdm ([a-z]+)", code):
            assert options <= OPTIONS[called[1]], code
        for path in re.findall(r"(?<![\w/])(?:dpdm_cli|examples|tests)/[\w./-]*\w", code):
            assert (REPOSITORY / path).exists(), path


def test_python_that_is_shown_calls_the_package_as_it_is() -> None:
    blocks = [
        body
        for page in PAGES
        for kind, body in FENCE.findall(page.read_text(encoding="utf-8"))
        if kind == "python"
    ]
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id in dpdm_cli.__all__
                signature = inspect.signature(getattr(dpdm_cli, node.func.id))
                signature.bind(*node.args, **{str(word.arg): word.value for word in node.keywords})


def figures(text: str) -> list[float | str]:
    """The words of an output, with numbers as such."""
    words = [re.sub(r"[(),]|\.$", "", word) for word in text.split()]
    return [float(word) if re.fullmatch(r"[\d.]+(e-?\d+)?", word) else word for word in words]


def test_output_that_is_shown_is_what_the_command_prints() -> None:
    shown = [
        body.removeprefix("$ ").partition("\n")
        for page in PAGES
        for kind, body in FENCE.findall(page.read_text(encoding="utf-8"))
        if kind == "text" and body.startswith("$ dpdm ")
    ]
    assert shown
    for command, _, output in shown:
        result = CliRunner().invoke(app, shlex.split(command)[1:], env={"COLUMNS": "80"})
        assert result.exit_code == 0, result.output
        printed, expected = figures(result.stdout), figures(output)
        assert len(printed) == len(expected)
        for found, wanted in zip(printed, expected, strict=True):
            assert found == (
                pytest.approx(wanted, rel=1e-3) if isinstance(wanted, float) else wanted
            )


def test_the_readme_is_short() -> None:
    assert (REPOSITORY / "README.md").read_text(encoding="utf-8").count("\n") <= 170
