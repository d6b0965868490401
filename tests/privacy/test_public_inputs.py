"""Sources of what is public: from a closed list, in words, and the same after storage."""

from __future__ import annotations

import itertools
import json

import pytest
from support import tiny
from support.statements import checked

from dpdm_cli.errors import DamagedFileError, PrivacyError
from dpdm_cli.privacy.public_inputs import NAMES, PUBLISHED, SOURCES, UNLABELLED, PublicInputs
from dpdm_cli.privacy.statement import private_statement

ALL = [
    PublicInputs(dataset_size=size, classes=classes, image_size=side, channels=channels)
    for size, side, channels in itertools.product(SOURCES, repeat=3)
    for classes in (*SOURCES, UNLABELLED)
]


def test_every_combination_survives_storage_and_no_two_read_alike() -> None:
    for record in ("image", "person"):
        assert len({public.text_for(record) for public in ALL}) == len(ALL) == 3**3 * 4
    for public in ALL:
        assert PublicInputs.from_dict(json.loads(json.dumps(public.to_dict()))) == public


def test_each_figure_stands_beside_its_source_and_a_declared_one_takes_a_claim_away() -> None:
    for public in ALL:
        for name, source in public.to_dict().items():
            group = next((g for g in public.words.split("; ") if NAMES[name] in g), "")
            assert (SOURCES[source] in group) if source in SOURCES else not group
        assert ("Nothing is claimed" in public.text_for("image")) == (
            "declared" in public.to_dict().values()
        )


@pytest.mark.parametrize(
    "damage",
    [
        {"dataset_size": "counted"},
        {"dataset_size": UNLABELLED},
        {"channels": UNLABELLED},
        {"classes": None},
        {"classes": ["stated"]},
        {"image_size": "A" * 45_000},
        {"more": "stated"},
    ],
)
def test_anything_else_is_a_damaged_file(damage: dict[str, object]) -> None:
    with pytest.raises(DamagedFileError) as caught:
        PublicInputs.from_dict({**PUBLISHED.to_dict(), **damage})
    assert len(caught.value.message) < 250


@pytest.mark.parametrize("values", [None, "stated", [], {}, {"dataset_size": "stated"}])
def test_what_is_no_such_object_is_a_damaged_file(values: object) -> None:
    with pytest.raises(DamagedFileError):
        PublicInputs.from_dict(values)


@pytest.mark.parametrize("public", [PUBLISHED, ALL[0], ALL[-1]], ids=lambda public: public.words)
def test_a_statement_says_so_and_is_held_to_it(public: PublicInputs) -> None:
    statement = private_statement(tiny.ledger(tiny.plan(), 5), public).to_json()
    assert statement["public_inputs"] == public.to_dict()
    assert public.text_for("image") in statement["text"]
    checked(statement)
    for other in ALL:
        if other != public:
            with pytest.raises(PrivacyError, match="text"):
                checked({**statement, "public_inputs": other.to_dict()})
    with pytest.raises(DamagedFileError):
        checked({**statement, "public_inputs": {**public.to_dict(), "classes": "any"}})
