"""Which files of a tree are images, and of which class and person. Knows names only; opens nothing.

cats/1.png dogs/2.png          one folder per class
1.png 2.png                    flat, unconditional
train/... test/...             two splits, each laid out as one of the above
pets/cats/1.png pets/dogs/...  the same inside one outer folder, as archivers write it
ill/ada/1.png, ada/ill/1.png   folders of persons in those of classes, or the other way round, when that is said
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from posixpath import splitext
from typing import Protocol

from dpdm_cli.choices import FolderLayout, Split
from dpdm_cli.data.class_names import class_order, some_of
from dpdm_cli.data.decoding import IN_WORDS
from dpdm_cli.errors import DataError

Parts = tuple[str, ...]

_SPLITS = frozenset({"train", "test", "val", "valid", "validation"})
_CLUTTER = frozenset({"__macosx", "thumbs.db", "desktop.ini", "dicomdir"})
TABLES = frozenset({".csv", ".tsv", ".jsonl", ".parquet", ".xlsx", ".xls", ".ods"})
_COMPANION_SUFFIXES = frozenset({".json", ".txt", ".md"}) | TABLES
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
        persons: the name of the person of each entry, None where folders do not say it. For grouping alone: it goes
            into no file and no message.
    """

    entries: list[Entry]
    labels: list[int] | None
    classes: tuple[str, ...]
    persons: list[str] | None = None


def arrange(
    tree: Tree, split: Split, classes: Sequence[str] | None, shape: FolderLayout | None = None
) -> Layout:
    """Find the images of a split and their classes.

    Args:
        tree: all files. Names that begin with a dot, and the clutter of file managers, are left
            out.
        split: which split; a tree without folders named `train` and `test` is all train.
        classes: the declared names in label order; None takes the sorted names of the folders,
            which are then facts of the data and are revealed with the model.
        shape: what nested folders stand for; None is one folder per class, or none.

    Raises:
        DataError: no image, no such split, a class without an image that was not declared, a folder
            that was, folders in folders, images beside class folders, or less or more folders than `shape` says.
    """
    if shape is not None:
        return _nested(tree, split, classes, shape)
    entries, folders = _without_clutter(tree)
    root = _root(tree.name, entries, folders, split, frozenset(classes or ()))
    entries = _sorted_below(entries, root)
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


def gather(tree: Tree, split: Split) -> Layout:
    """Every image of a split, in whatever folders, sorted by path and without labels.

    Raises:
        DataError: no image, or no such split.
    """
    return Layout(_gathered(tree, split, 0)[0], None, ())


def tables_in(tree: Tree) -> list[Entry]:
    """Tables that lie anywhere in a tree, those of the outer folders first."""
    named = (entry for entry in tree.entries if splitext(entry.name)[1].lower() in TABLES)
    found = [entry for entry in named if not _is_clutter(entry.path)]
    return sorted(found, key=lambda entry: (len(entry.folder), entry.path))


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


def _sorted_below(entries: list[Entry], root: Parts) -> list[Entry]:
    """In two sorts, neither of which makes a new path for each of what may be millions."""
    found = [entry for entry in entries if entry.folder[: len(root)] == root]
    found.sort(key=attrgetter("name"))
    found.sort(key=attrgetter("folder"))
    return found


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
        if _are_splits(names):
            return (*root, _split_of(name, names, split))
        only = (*root, names[0])
        below = _children(folders, only)
        images = _without_companions([e for e in entries if e.folder == only], below)
        if len(names) > 1 or not below or images:
            break
        root = only
    if split == "test":
        raise _no_test_split(name)
    return root


def _divided_root(
    name: str, entries: list[Entry], folders: set[Parts], split: Split, levels: int
) -> Parts:
    """The folder of the split, where it is known how many folders are below it."""
    deepest = max((len(entry.folder) for entry in entries), default=0)
    root: Parts = ()
    while not _are_splits(names := _children(folders, root)):
        if len(names) != 1 or deepest - len(root) <= levels:
            if split == "test":
                raise _no_test_split(name)
            return root
        root = (*root, *names)
    return (*root, _split_of(name, names, split))


def _are_splits(names: Sequence[str]) -> bool:
    return _SPLITS.issuperset(names) and not {"train", "test"}.isdisjoint(names)


def _split_of(name: str, names: Sequence[str], split: Split) -> Split:
    if split not in names:
        raise DataError(
            f"{name} has no {split} split, only {', '.join(names)}",
            f"Put the images into a subfolder {split}/.",
        )
    return split


def _no_test_split(name: str) -> DataError:
    return DataError(
        f"{name} has no test split",
        "Lay it out as train/ and test/, or name another folder for the test images.",
    )


def _no_image(here: str) -> DataError:
    return DataError(
        f"{here} holds no image", f"Expected {IN_WORDS} files, or one subfolder per class."
    )


def _gathered(tree: Tree, split: Split, levels: int) -> tuple[list[Entry], Parts]:
    """Images at any depth, and the folder of their split, `levels` above them."""
    entries, folders = _without_clutter(tree)
    root = _divided_root(tree.name, entries, folders, split, levels)
    images = _without_companions(_sorted_below(entries, root), ["a folder"] if levels else [])
    if not images:
        raise _no_image("/".join((tree.name, *root)))
    return images, root


def _nested(tree: Tree, split: Split, classes: Sequence[str] | None, shape: FolderLayout) -> Layout:
    levels = shape.split("/")[:-1]
    images, root = _gathered(tree, split, len(levels))
    here, depth = "/".join((tree.name, *root)), len(root)
    if wrong := [entry for entry in images if len(entry.folder) != depth + len(levels)]:
        raise DataError(
            f"{here} is not laid out as {shape}: {len(wrong)} of {len(images)} images lie in more or less than "
            f"{len(levels)} folders; the first is {wrong[0]}",
            "Move them, or choose the --layout that fits.",
        )
    found = {
        level: [entry.folder[depth + place] for entry in images]
        for place, level in enumerate(levels)
    }
    persons, of_class = found.get("person"), found.get("class")
    if of_class is None:
        if classes is not None:
            raise DataError(
                f"{len(classes)} classes are declared, but {shape} has no class folders",
                "Give the labels in a table (--labels), or leave out the classes.",
            )
        return Layout(images, None, (), persons)
    names = sorted({*of_class})
    if classes is None and persons is not None and len(names) > len({*persons}):
        raise DataError(
            f"{here}: as {shape} these are {len(names)} classes of {len({*persons})} persons",
            "Names of classes are published. If it is the other way round, change --layout; if not, declare the "
            "classes (--classes).",
        )
    order = class_order(here, names, classes)
    index = {name: label for label, name in enumerate(order)}
    return Layout(images, [index[name] for name in of_class], order, persons)


def _flat(here: str, files: list[Entry], classes: Sequence[str] | None) -> Layout:
    if not files:
        raise _no_image(here)
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
            "One level of folders is read, one folder per class: move the images up; or say what they stand for by "
            "--layout class/person/image or person/class/image, or give the labels in a table (--labels).",
        )
    order = class_order(here, names, classes)
    images = [entry for entry in entries if len(entry.folder) == depth + 1]
    filled = {entry.folder[depth] for entry in images}
    if not images:
        raise DataError(f"{here} holds no image in its {len(names)} class folders")
    empty = [name for name in names if name not in filled]
    if empty and classes is None:
        raise DataError(
            f"{here} has class folders without an image: {some_of(empty)}",
            "Remove them, or declare the classes (--classes) to keep a class that has none.",
        )
    index = {name: label for label, name in enumerate(order)}
    return Layout(images, [index[entry.folder[depth]] for entry in images], order)
