"""What people choose to call their classes stays a name in a card: no link, no HTML, no cell of its own."""

from __future__ import annotations

import pytest

from dpdm_cli.publishing.cards import _listed


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat", "`cat`"),
        ("[x](javascript:alert(1))", "`[x](javascript:alert(1))`"),
        ("<img src=x>", "`<img src=x>`"),
        ("a|b", "`a\\|b`"),
        ("`", "`` ` ``"),
        ("a``b`", "``` a``b` ```"),
    ],
)
def test_a_name_is_shown_as_it_is(name: str, shown: str) -> None:
    assert _listed([name, "dog"]) == f"{shown}, `dog`"
