"""Which files of a tree are images, and of which class. Knows names only; opens nothing.

cats/1.png dogs/2.png          one folder per class
1.png 2.png                    flat, unconditional
train/... test/...             two splits, each laid out as one of the above
pets/cats/1.png pets/dogs/...  the same inside one outer folder, as archivers write it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from posixpath import splitext
from typing import Protocol

from dpdm_cli.choices import Split
from dpdm_cli.errors import DataError

Parts = tuple[str, ...]

_SPLITS = frozenset({"train", "test", "val", "valid", "validation"})
_CLUTTER = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
_COMPANION_SUFFIXES = frozenset({".json", ".jsonl", ".txt", ".md", ".csv"})
_COMPANION_NAMES = frozenset({"license", "readme"})
_MANIFEST, _GRID = "metadata.json", "grid.png"


class Source(Protocol):
    """Where the bytes of entries come from."""

    def read(self, entry: Entry) -> bytes:
        """The whole file.

        Raises:
            OSError: it cannot be read.
        """

    def facts(self, entry: Entry) -> str:
        """What changes when the bytes do, obtained without reading them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file below the root. There may be millions, so it is small.

    Attributes:
        folder: the names of the folders above it; one object for all entries of a folder.
        name: its own name.
        source: what reads it.
        at: where the source finds it, when the path does not say that.
    """

    folder: Parts
    name: str
    source: Source
    at: int = 0

    @property
    def path(self) -> Parts:
        """All names from the root."""
        return (*self.folder, self.name)

    def read(self) -> bytes:
        """The whole file.

        Raises:
            OSError: it cannot be read.
        """
        return self.source.read(self)

    def facts(self) -> str:
        """What changes when the bytes do, obtained without reading them."""
        return self.source.facts(self)

    def __str__(self) -> str:
        text = "/".join(self.path)
        return text if text.isprintable() else ascii(text)


@dataclass(frozen=True)
class Tree:
    """All files and folders below a root.

    Attributes:
        name: the root, as messages show it.
        entries: every file, in any order.
        folders: every folder, empty ones included, the root excluded.
    """

    name: str
    entries: Sequence[Entry]
    folders: frozenset[Parts]


@dataclass(frozen=True)
class Layout:
    """The images of one split, sorted by path.

    Attributes:
        labels: one index into `classes` for each entry; None when unconditional.
    """

    entries: list[Entry]
    labels: list[int] | None
    classes: tuple[str, ...]


def arrange(tree: Tree, split: Split, classes: Sequence[str] | None) -> Layout:
    """Find the images of a split and their classes.

    Args:
        tree: all files. Names that begin with a dot, and the clutter of file managers, are left
            out.
        split: which split; a tree without folders named `train` and `test` is all train.
        classes: the declared names in label order; None takes the sorted names of the folders,
            which are then facts of the data and are revealed with the model.

    Raises:
        DataError: no image, no such split, a class without an image that was not declared, a folder
            that was, folders in folders, images beside class folders.
    """
    entries, folders = _without_clutter(tree)
    root = _root(tree.name, entries, folders, split, frozenset(classes or ()))
    depth = len(root)
    entries = [entry for entry in entries if entry.folder[:depth] == root]
    # In two sorts, neither of which makes a new path for each of what may be millions.
    entries.sort(key=attrgetter("name"))
    entries.sort(key=attrgetter("folder"))
    here = "/".join((tree.name, *root))
    names = _children(folders, root)
    beside = _without_companions([e for e in entries if e.folder == root], names)
    if not names:
        return _flat(here, beside, classes)
    if beside:
        raise DataError(
            f"{here} holds {len(beside)} files beside its class folders; "
            f"the first is {beside[0].name}",
            "Put every image into its class folder, or all images into one folder without any.",
        )
    return _by_class(here, entries, folders, root, names, classes)


def is_class_name(name: str) -> bool:
    """Whether a name can be a folder, a line of a message and a string in JSON."""
    usable = bool(name) and name.isprintable() and not name.startswith(".")
    return usable and not set(name) & {"/", "\\"}


def splits_in(tree: Tree) -> tuple[str, ...]:
    """Which of `train` and `test` a tree is divided into; `()` when it is not divided."""
    _, folders = _without_clutter(tree)
    root: Parts = ()
    while len(names := _children(folders, root)) == 1 and not _SPLITS.issuperset(names):
        root = (*root, *names)
    return tuple(n for n in ("train", "test") if n in names and _SPLITS.issuperset(names))


def _without_clutter(tree: Tree) -> tuple[list[Entry], set[Parts]]:
    """Entries, and all folders on their ways and beside them."""
    every = {entry.folder for entry in tree.entries}
    clean = {path for path in every if not _is_clutter(path)}
    entries = [e for e in tree.entries if e.folder in clean and not _is_clutter((e.name,))]
    folders = {path for path in tree.folders if not _is_clutter(path)}
    for path in {entry.folder for entry in entries}:
        folders.update(path[:depth] for depth in range(1, len(path) + 1))
    return entries, folders


def _is_clutter(path: Parts) -> bool:
    return any(part.startswith(".") or part.lower() in _CLUTTER for part in path)


def _children(folders: set[Parts], root: Parts) -> list[str]:
    depth = len(root)
    return sorted(p[-1] for p in folders if len(p) == depth + 1 and p[:depth] == root)


def _without_companions(files: list[Entry], class_folders: list[str]) -> list[Entry]:
    """Leave out files beside the images that are not images: notes, and what `dpdm sample` adds."""
    has_manifest = any(entry.name.lower() == _MANIFEST for entry in files)
    grid = {_GRID} if class_folders or has_manifest else set()

    def is_companion(name: str) -> bool:
        return name in grid or name in _COMPANION_NAMES or splitext(name)[1] in _COMPANION_SUFFIXES

    return [entry for entry in files if not is_companion(entry.name.lower())]


def _root(
    name: str, entries: list[Entry], folders: set[Parts], split: Split, declared: frozenset[str]
) -> Parts:
    """The folder whose children are the classes (or the images) of the split."""
    root: Parts = ()
    while True:
        names = _children(folders, root)
        files = [e for e in entries if e.folder == root]
        inside = _without_companions(files, names)
        if not names or inside or declared.issuperset(names):
            break
        if _SPLITS.issuperset(names) and not {"train", "test"}.isdisjoint(names):
            if split not in names:
                raise DataError(
                    f"{name} has no {split} split, only {', '.join(names)}",
                    f"Put the images into a subfolder {split}/.",
                )
            return (*root, split)
        only = (*root, names[0])
        below = _children(folders, only)
        images = _without_companions([e for e in entries if e.folder == only], below)
        if len(names) > 1 or not below or images:
            break
        root = only
    if split == "test":
        raise DataError(
            f"{name} has no test split",
            "Lay it out as train/ and test/, or name another folder for the test images.",
        )
    return root


def _flat(here: str, files: list[Entry], classes: Sequence[str] | None) -> Layout:
    if not files:
        raise DataError(
            f"{here} holds no image",
            "Expected PNG, JPEG, WEBP or BMP files, or one subfolder per class.",
        )
    if classes is not None:
        raise DataError(
            f"{len(classes)} classes are declared, but {here} has no class folders",
            "Put the images into one subfolder per class, or leave out the classes.",
        )
    return Layout(files, None, ())


def _by_class(
    here: str,
    entries: list[Entry],
    folders: set[Parts],
    root: Parts,
    names: list[str],
    classes: Sequence[str] | None,
) -> Layout:
    depth = len(root)
    deeper = sorted(p for p in folders if len(p) > depth + 1 and p[:depth] == root)
    if deeper:
        raise DataError(
            f"{here} has folders inside its class folders; "
            f"the first is {'/'.join(deeper[0][depth:])}",
            "One level of folders is read, one folder per class: move the images up.",
        )
    odd = [name for name in names if not is_class_name(name)]
    if odd:
        raise DataError(
            f"{here} has a class folder with an unusable name: {odd[0]!a}", "Rename it."
        )
    order = tuple(names) if classes is None else tuple(classes)
    unknown = [name for name in names if name not in order]
    if unknown:
        raise DataError(
            f"{here} has folders that are not among the {len(order)} declared classes: "
            f"{_some(unknown)}",
            "Declare them, rename them or move them elsewhere.",
        )
    images = [entry for entry in entries if len(entry.folder) == depth + 1]
    filled = {entry.folder[depth] for entry in images}
    if not images:
        raise DataError(f"{here} holds no image in its {len(names)} class folders")
    empty = [name for name in names if name not in filled]
    if empty and classes is None:
        raise DataError(
            f"{here} has class folders without an image: {_some(empty)}",
            "Remove them, or declare the classes (--classes) to keep a class that has none.",
        )
    index = {name: label for label, name in enumerate(order)}
    return Layout(images, [index[entry.folder[depth]] for entry in images], order)


def _some(names: Sequence[str], most: int = 10) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
