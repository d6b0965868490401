"""What people choose to call their classes stays a name in a card: no link, no HTML, no cell of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dpdm_cli.checkpoint import load_model
from dpdm_cli.errors import UsageError
from dpdm_cli.privacy.circumstances import Said
from dpdm_cli.privacy.statement import Statement
from dpdm_cli.publishing.cards import _listed
from dpdm_cli.publishing.front_matter import _license, model_head

PRETRAINED = Path(__file__).parents[2] / "examples" / "pretrained" / "mnist-eps10"


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


@pytest.mark.parametrize(
    ("stated", "head"),
    [
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("MIT", {"license": "mit"}),
        ("LicenseRef-ours", {"license": "other", "license_name": "licenseref-ours"}),
        (None, {}),
    ],
)
def test_a_license_is_that_of_the_publisher_or_none(
    stated: str | None, head: dict[str, str]
) -> None:
    statement = load_model(PRETRAINED).statement
    assert isinstance(statement, Statement)
    about = replace(statement.about, said=Said(license=stated))
    assert _license(replace(statement, about=about)) == head


def test_a_base_model_is_named_where_the_weights_started_from_one() -> None:
    statement = load_model(PRETRAINED).statement
    assert isinstance(statement, Statement)
    started = replace(statement, init_from="0" * 64)
    assert 'base_model: "owner/model-1.5"' in model_head(started, "owner/model-1.5")
    assert not any("base_model" in line for line in model_head(started, None))
    for other in (statement, replace(statement, init_from=None)):
        with pytest.raises(UsageError, match="did not start"):
            model_head(other, "owner/model")
    for name in ("model", "a/b/c", "a/b\nlicense: mit", "-/x", ""):
        with pytest.raises(UsageError, match="not the name"):
            model_head(started, name)
