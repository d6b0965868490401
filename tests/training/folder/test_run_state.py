"""What a run knows of itself survives storage, and nothing else passes for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import tiny
from support.statements import state_of

from dpdm_cli.errors import DamagedFileError, PrivacyError
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.training.folder.run_state import RunState

FOREIGN = ("a word", 12.5, -1, True, [1], {"more": 1}, None)
KEYS = sorted(state_of(None).to_json())


def stored(ledger: Ledger | None) -> dict[str, Any]:
    return dict(json.loads(json.dumps(state_of(ledger).to_json())))


@pytest.mark.parametrize("is_private", [True, False])
def test_a_state_survives_storage(is_private: bool) -> None:
    values = stored(tiny.ledger(tiny.plan(), 3) if is_private else None)
    again = RunState.from_json(values)
    assert json.loads(json.dumps(again.to_json())) == values
    assert (again.settings, again.stated) == (state_of(None).settings, state_of(None).stated)


@pytest.mark.parametrize("key", [*KEYS, "more"])
def test_a_key_that_is_missing_or_foreign_is_damage_and_named(key: str) -> None:
    values = stored(tiny.ledger(tiny.plan(), 3))
    if key == "more":
        values[key] = 1
    else:
        del values[key]
    with pytest.raises(DamagedFileError) as caught:
        RunState.from_json(values)
    assert key in caught.value.message or key in ("private", "plan", "stated", "about")


@pytest.mark.parametrize("key", KEYS)
def test_what_is_read_is_what_was_written_or_refused(key: str) -> None:
    for foreign in FOREIGN:
        values = {**stored(tiny.ledger(tiny.plan(), 3)), key: foreign}
        try:
            read = RunState.from_json(values)
        except (DamagedFileError, PrivacyError):
            continue
        assert json.loads(json.dumps(read.to_json())) == values


@pytest.mark.parametrize("name", ["epsilon", "batch_size", "multipliers", "denoiser"])
def test_a_setting_of_another_kind_is_named(name: str) -> None:
    values = stored(None)
    values["settings"][name] = {"more": 1}
    with pytest.raises(DamagedFileError, match=f"settings: {name}"):
        RunState.from_json(values)
