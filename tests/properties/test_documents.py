"""What the Markdown files say is there, is there: links, headings, files, commands and their options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

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
    """The command lines of `dpdm` on a page, in fenced blocks and in code within sentences: name and arguments."""
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


def test_the_readme_is_short() -> None:
    assert (REPOSITORY / "README.md").read_text(encoding="utf-8").count("\n") <= 170
