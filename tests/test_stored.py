"""JSON from outside: bounded, with each key once and finite numbers alone; values by name, or one clear error."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpdm_cli.errors import DamagedFileError
from dpdm_cli.stored import json_digest, json_text, parse_json, understood

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_what_was_written_is_read(values: dict[str, Any]) -> None:
    text = json_text(values)
    assert parse_json(text, "it", bare=True) == values
    backwards = dict(reversed(values.items()))
    assert json_digest(backwards) == json_digest(values)


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"not json", b"[1]", b"1", b"null", b"{", b"{} {}", b"\xff\xfe{", b"{'a': 1}"),
        *(b'{"a": 1, "a": 1}', b'{"b": {"a": 1, "a": 2}}'),
        *(b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": [1e999]}'),
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": ' * 33 + b"1" + b"}" * 33,
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a": "' + b"x" * 1000 + b'"}',
    ],
)
def test_anything_else_is_refused_by_one_error_that_says_where(text: bytes) -> None:
    with pytest.raises(DamagedFileError, match=r"x\.json: damaged") as caught:
        parse_json(text, "x.json", most=500 if b"xxx" in text else 1 << 20)
    assert len(caught.value.message) < 300
    assert caught.value.hint


@pytest.mark.parametrize("text", ['{"a":  1}    \n\n\n\n', '{\n\t\t\t\t\t"a": 1}'])
def test_more_blanks_than_are_written_are_seen_where_they_matter(text: str) -> None:
    assert parse_json(text, "it") == {"a": 1}
    with pytest.raises(DamagedFileError, match="more than the JSON object"):
        parse_json(text, "it", bare=True)


@dataclasses.dataclass(frozen=True)
class Inner:
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Outer:
    count: int
    share: float
    kind: Literal["a", "b"]
    size: tuple[int, float]
    bounds: Mapping[str, float]
    inner: Inner | None
    text: str | None = None


GOOD: dict[str, Any] = {
    "count": 1,
    "share": 2,
    "kind": "a",
    "size": [1, 0.5],
    "bounds": {"x": 1.5},
    "inner": {"names": ["u", "v"]},
    "text": None,
}


def test_fields_come_back_with_their_types() -> None:
    assert understood(Outer, GOOD, "it") == Outer(
        1, 2, "a", (1, 0.5), {"x": 1.5}, Inner(("u", "v"))
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        *(({"count": each}, "count") for each in (True, 1.0, "1", None, [1])),
        *(({"share": each}, "share") for each in (True, "2", None)),
        *(({"kind": each}, "kind") for each in ("c", 1, ["a"], None)),
        *(({"size": each}, "size") for each in ([1], [1, 2, 3], [1.5, 2], "12", None)),
        *(({"bounds": each}, "bounds") for each in ({"x": "1"}, [1.0], None)),
        ({"inner": {"names": ["u", 1]}}, "inner: names"),
        ({"inner": {"names": [], "more": 1}}, "inner has unknown more"),
        ({"inner": {}}, "inner lacks names"),
        ({"text": 1}, "text"),
        ({"more": 1}, "more"),
    ],
)
def test_a_value_of_another_kind_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(DamagedFileError, match=f"it.*{named}"):
        understood(Outer, {**GOOD, **change}, "it")
    assert json.loads(json.dumps(GOOD)) == GOOD


@pytest.mark.parametrize("name", GOOD)
def test_every_field_is_asked_for(name: str) -> None:
    with pytest.raises(DamagedFileError, match=f"it lacks {name}"):
        understood(Outer, {key: value for key, value in GOOD.items() if key != name}, "it")
