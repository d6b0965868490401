"""What classes may be called, checked where names enter: with the images, and in files that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dpdm_cli.errors import DataError

LONGEST_CLASS_NAME = 255  # bytes of UTF-8: of a folder's name on most systems

_RESERVED = {"private", "grid.png", "metadata.json", "readme.md", "train", "test"}
"""What lies beside class folders, or is taken for something else than a class."""


def check_classes(names: Iterable[object]) -> tuple[str, ...]:
    """What classes are called. Raises ValueError: one has no name of one short line, or that of another."""
    found = []
    for name in names:
        if not isinstance(name, str) or not name or not name.isprintable():
            raise ValueError(f"classes hold {str(name)[:80]!a}, no name")
        if len(name.encode()) > LONGEST_CLASS_NAME:
            raise ValueError(f"classes hold a name of more than {LONGEST_CLASS_NAME} bytes")
        found.append(name)
    if len(set(found)) < len(found):
        raise ValueError("classes hold a name twice")
    return tuple(found)


def check_new_classes(names: Sequence[str], where: str) -> None:
    """Refuse names that no model is ever published under, before anything is made of their images.

    Args:
        where: what the images are from, for messages.

    Raises:
        DataError: see `check_classes`; or a name that lies beside class folders already.
    """
    try:
        check_classes(names)
    except ValueError as error:
        raise DataError(f"{where}: the {error}", "rename the classes") from None
    if taken := [name for name in names if name.casefold() in _RESERVED]:
        raise DataError(
            f"{where}: no class can be called {taken[0]!r}: that is the name of something else in a set of samples",
            "rename the class",
        )


def is_class_name(name: str) -> bool:
    """Whether a name can be a folder, a line of a message and a string in JSON."""
    usable = bool(name) and name.isprintable() and not name.startswith(".")
    return usable and not set(name) & {"/", "\\"}


def class_order(
    where: str, names: Sequence[str], classes: Sequence[str] | None, what: str = "folder"
) -> tuple[str, ...]:
    """Names of classes in label order.

    Args:
        where: what they are from, for messages.
        names: those that were found, in their own order.
        classes: those that are declared; None takes those that were found.
        what: a name of a class is that of a `folder`, or is a `label`.

    Raises:
        DataError: a name that cannot be that of a folder, or is not declared.
    """
    odd = [name for name in names if not is_class_name(name)]
    if odd:
        kind = "class folder with an unusable name" if what == "folder" else "label of no use"
        raise DataError(f"{where} has a {kind}: {odd[0]!a}", "Rename it.")
    order = tuple(names) if classes is None else tuple(classes)
    unknown = [name for name in names if name not in order]
    if unknown:
        raise DataError(
            f"{where} has {what}s that are not among the {len(order)} declared classes: "
            f"{some_of(unknown)}",
            "Declare them, rename them or move them elsewhere.",
        )
    return order


def some_of(names: Sequence[str], most: int = 10) -> str:
    """The first of some names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
