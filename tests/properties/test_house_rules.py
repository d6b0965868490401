"""What the package must never contain: found in the source, before it can happen at run time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dpdm_cli

PACKAGE = Path(dpdm_cli.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


SHARED = {
    "choices",
    "compute",
    "errors",
    "files",
    "keywords",
    "reporter",
    "results",
    "signals",
    "stored",
}
CORE = {*SHARED, "data", "diffusion", "privacy", "checkpoint"}
KNOWN = {
    **{name: set() for name in ("choices", "errors", "keywords", "reporter", "results")},
    **{name: {"errors"} for name in ("signals", "stored")},
    "files": {"errors", "stored"},
    "compute": {"errors"},
    "privacy": {"compute", "errors", "stored"},
    "diffusion": {"compute", "errors", "stored"},
    "data": SHARED,
    "checkpoint": {*SHARED, "data", "diffusion", "privacy"},
    "sampling": CORE,
    "training": {*CORE, "sampling"},
    "auditing": {*CORE, "training"},
    "evaluation": CORE,
    "publishing": {*CORE, "sampling", "training"},
    "reporting": {*CORE, "evaluation", "publishing", "sampling", "training"},
}
"""What each room, and each file outside the rooms, may import beside itself; `commands` may import everything."""

MEASURES = [("evaluation", name) for name in ("classifiers", "distances", "features")]
"""Rooms that know tensors, and neither where images came from nor what was private."""


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_known_to(path: Path) -> Iterator[str]:
    """First parts of what a file imports from the package, `errors` for `from dpdm_cli import errors` too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "dpdm_cli":
            yield from (alias.name for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dpdm_cli."):
            yield str(node.module).split(".")[1]
        elif isinstance(node, ast.Import):
            names = (alias.name.split(".") for alias in node.names)
            yield from (parts[1] for parts in names if parts[0] == "dpdm_cli" and parts[1:])


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


def test_what_only_tests_or_an_extra_need_is_not_needed_to_start() -> None:
    """`datasets` reads what was written, in tests; pyarrow is imported by the function that asks for it."""
    for path in FILES:
        assert not {name.split(".")[0] for name in imports(path)} & {"datasets", "huggingface_hub"}
        at_once = ast.parse(path.read_text(encoding="utf-8")).body
        names = {
            alias.name for node in at_once if isinstance(node, ast.Import) for alias in node.names
        }
        assert not {name for name in names if name.startswith("pyarrow")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_know_only_the_rooms_below_them(path: Path) -> None:
    inside = room(path)
    known = {inside} | (set(KNOWN) if inside == "commands" else KNOWN.get(inside, set()))
    if inside not in ("__init__", "__main__"):
        assert set(rooms_known_to(path)) <= known
    if path.relative_to(PACKAGE).parts[:2] in MEASURES:
        assert set(rooms_known_to(path)) <= {*SHARED, "evaluation"}


def test_folders_and_files_are_small_enough_to_be_read_at_once() -> None:
    folders = [PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir())]
    assert not {folder for folder in folders if len([*folder.glob("*.py")]) > 14}
    assert not {path for path in FILES if path.read_text(encoding="utf-8").count("\n") > 400}


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
