"""What the package must never contain: found in the source, before it can happen at run time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dpdm_cli

PACKAGE = Path(dpdm_cli.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_pickle_no_evaluation_no_loss_scaling_and_no_screen_outside_the_commands(
    path: Path,
) -> None:
    found = set(imports(path))
    assert not {
        name
        for name in found
        if name.split(".")[0] in ("pickle", "dill", "joblib", "click", "yaml")
    }
    called = set(calls(path))
    assert not called & {"torch.load", "eval", "exec", "torch.amp.GradScaler", "yaml.load"}
    if room(path) != "commands":
        assert not {name for name in found if name.split(".")[0] in ("typer", "rich")}
        assert "print" not in called


@pytest.mark.parametrize(
    ("inside", "forbidden"),
    [
        ("privacy", ("diffusion", "data", "evaluation", "runs", "commands")),
        ("diffusion", ("privacy", "data", "evaluation", "runs", "commands")),
        ("evaluation", ("privacy", "diffusion", "data", "runs", "commands")),
        ("data", ("privacy", "diffusion", "evaluation", "runs", "commands")),
        ("runs", ("commands",)),
    ],
)
def test_rooms_know_only_the_rooms_below_them(inside: str, forbidden: tuple[str, ...]) -> None:
    for path in FILES:
        if room(path) == inside:
            for name in imports(path):
                assert not name.startswith(tuple(f"dpdm_cli.{other}" for other in forbidden)), (
                    path,
                    name,
                )


def test_the_privacy_room_has_no_seeds_no_generators_and_counts_no_records() -> None:
    for path in FILES:
        if room(path) == "privacy":
            called = set(calls(path))
            assert not {
                name
                for name in called
                if "manual_seed" in name or name.endswith(("randn", "rand", "Generator"))
            }
            assert "len(dataset)" not in path.read_text(encoding="utf-8")
