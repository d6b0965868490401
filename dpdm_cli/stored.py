"""What is stored as JSON: how it is written, and how it is read again, whoever may have had it meanwhile.

What comes from outside is bounded in size and depth, has no key twice and no number that is none. Values that are known
by name are objects of a frozen dataclass, which checks each of them and says which one it does not take.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn, TypeVar

from dpdm_cli.errors import DamagedFileError, UsageError

T = TypeVar("T")

Json = dict[str, object]
"""A JSON object: what a result or a stored value is written as, and what a file holds until it is understood."""

COPY_AGAIN = "copy it again from where it was made, or make it again"

MOST_BYTES = 1 << 26
LARGEST_SIDE = 1024
"""Pixels on a side of any image, and of any network's."""
_MOST_LEVELS = 32
_LONGEST_SHOWN = 80  # characters of what was found, in a message


def json_text(values: Mapping[str, object]) -> bytes:
    """A JSON object as it is written for people and programs."""
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def json_digest(values: object) -> str:
    """SHA-256 (hex) of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def same_json(found: object, expected: object) -> bool:
    """Whether both are the same JSON: true is not 1, and 1 is not 1.0."""
    return json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)


def parse_json(
    content: bytes | str,
    what: str,
    *,
    hint: str = COPY_AGAIN,
    most: int = MOST_BYTES,
    bare: bool = False,
) -> Json:
    """The JSON object in what comes from outside.

    Args:
        content: UTF-8.
        what: what this is, for the message.
        hint: what to do about damage.
        most: bytes, or characters, that it may have.
        bare: whether nothing may stand beside the object, blanks beyond those of `json_text` neither.

    Raises:
        DamagedFileError: it is none; it is too large or too deep; it names a key twice; a number is not finite.
    """
    try:
        if len(content) > most:
            raise ValueError(f"larger than {most:,} bytes")
        values = json.loads(
            content,
            object_pairs_hook=_without_repeats,
            parse_constant=_refuse,
            parse_float=_finite,
        )
        if not isinstance(values, dict):
            raise ValueError(f"not an object, but {type(values).__name__}")
        _check_levels(values)
        if bare and len(content) > len(json_text(values)):
            raise ValueError("more than the JSON object in it")
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{what}: damaged: {error}", hint) from error
    return values


def check_keys(values: Mapping[str, object], expected: Collection[str], what: str) -> None:
    """Refuse an object whose keys are not exactly `expected`.

    Raises:
        DamagedFileError: naming the missing and the unknown keys.
    """
    wanted = set(expected)
    missing = ", ".join(sorted(wanted - values.keys()))
    unknown = ", ".join(sorted(map(str, values.keys() - wanted)))
    faults = [
        f"lacks {missing}" if missing else "",
        f"has unknown {shown(unknown)}" if unknown else "",
    ]
    if missing or unknown:
        raise DamagedFileError(f"{what} {' and '.join(fault for fault in faults if fault)}")


def understood(cls: type[T], values: object, what: str, **read: Callable[[Any], object]) -> T:
    """The object of a dataclass that was stored as its fields by name.

    Args:
        cls: its annotations say of which type each value is; tuples are lists in JSON.
        values: a JSON object.
        what: whose keys these are, for messages.
        read: for fields that are more than their type: gives the value, or raises where there is none in what it is
            given.

    Raises:
        DamagedFileError: a key is missing or foreign, or a value is none that stands there; it names the key.
    """
    if not isinstance(values, dict):
        raise DamagedFileError(f"{what} is a JSON object, not {type(values).__name__}")
    kinds = _kinds(cls)
    check_keys(values, kinds, what)
    found = {
        name: value_of(
            values,
            name,
            what,
            read.get(name) or functools.partial(_of_kind, kind, f"{what}: {name}"),
        )
        for name, kind in kinds.items()
    }
    try:
        return cls(**found)
    except (TypeError, ValueError, UsageError) as error:
        raise DamagedFileError(f"{what} makes no sense: {str(error)[:200]}") from error


def value_of(values: Mapping[str, object], name: str, what: str, read: Callable[[Any], Any]) -> Any:
    """What `read` gives for the value under a key. Raises DamagedFileError, with the key, where it takes exception."""
    try:
        return read(values.get(name))
    except (LookupError, AttributeError, TypeError, ValueError, UsageError) as error:
        raise DamagedFileError(
            f"{what}: {name} is {shown(values.get(name))!a}, which is not what stands there"
        ) from error


def json_object(value: object) -> Json:
    """A value that is to be a JSON object. Raises ValueError: it is another."""
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def optional(read: Callable[[Any], T]) -> Callable[[Any], T | None]:
    """As `read`, and None for None."""
    return lambda value: None if value is None else read(value)


def shown(value: object) -> str:
    """A value as far as it fits into a message."""
    text = str(value)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def _kinds(cls: type[Any]) -> dict[str, Any]:
    """Types of the fields of a dataclass that its constructor takes."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def _of_kind(kind: Any, what: str, value: Any) -> Any:
    """A value out of JSON as one of an annotated type. Raises ValueError: it is none."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType or origin is typing.Union:
        if value is None and type(None) in inside:
            return None
        (kind,) = (each for each in inside if each is not type(None))
        return _of_kind(kind, what, value)
    if origin is typing.Literal and value in inside and type(value) is str:
        return value
    if origin in (tuple, list) and isinstance(value, list | tuple):
        if origin is list or inside[1:] == (...,):
            return origin(_of_kind(inside[0], what, each) for each in value)
        return tuple(_of_kind(each, what, part) for each, part in zip(inside, value, strict=True))
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {name: _of_kind(inside[1], what, each) for name, each in value.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return understood(kind, value, what)
    # A number that is written without a fraction is an int in JSON.
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    raise ValueError(f"expected {kind}")


def _without_repeats(pairs: list[tuple[str, object]]) -> Json:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return values


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is beyond all numbers")
    return number


def _check_levels(values: Json) -> None:
    level: list[Any] = [values]
    for _ in range(_MOST_LEVELS):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    if level:
        raise ValueError(f"deeper than {_MOST_LEVELS} levels")
