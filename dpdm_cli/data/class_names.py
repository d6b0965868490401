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
