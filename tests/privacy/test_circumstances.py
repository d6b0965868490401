"""What a run notes of itself and what is said of it: every value from a closed list or of a checked form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dpdm_cli.errors import DamagedFileError
from dpdm_cli.privacy.circumstances import (
    CHOSEN_BY,
    MACHINES,
    NOTHING_KNOWN,
    SEEN_BY,
    Circumstances,
    Said,
)

FULL = Circumstances(
    versions=("0.1.0", "0.2.0rc1"),
    machines=("cpu", "cuda"),
    begun="2026-02-28",
    checks="passed",
    noise_from_system=True,
    runs=12,
    chosen_by="samples",
    seen_by="holder",
    said=Said(purpose="Teaching | <b>", source="a ward", contact="a@b.org", license="CC-BY-4.0"),
)


@pytest.mark.parametrize("about", [FULL, NOTHING_KNOWN])
def test_circumstances_survive_storage(about: Circumstances) -> None:
    stored = json.loads(json.dumps(about.to_json()))
    assert Circumstances.from_json({**stored, "more": 1}, "it") == about


def test_what_is_not_known_is_said_in_words() -> None:
    leaves: list[Any] = [NOTHING_KNOWN.to_json()]
    while any(isinstance(leaf, dict) for leaf in leaves):
        leaves = [
            part
            for leaf in leaves
            for part in (leaf.values() if isinstance(leaf, dict) else [leaf])
        ]
    assert {*leaves} == {"dpdm", "central", "not stated", "not recorded"}
    assert "not stated" in NOTHING_KNOWN.selection_text
    assert "not recorded" in NOTHING_KNOWN.trust_text


def test_each_process_that_trains_adds_itself_and_only_the_first_its_day() -> None:
    begun = NOTHING_KNOWN.went_on("0.1.0", "cuda", "2026-01-31")
    assert begun.went_on("0.1.0", "cuda", "2026-02-01") == begun
    other = begun.went_on("0.2.0", "cpu", "2026-02-01")
    assert (other.versions, other.machines, other.begun) == (
        ("0.1.0", "0.2.0"),
        ("cpu", "cuda"),
        "2026-01-31",
    )
    assert (begun.checks, begun.noise_from_system) == ("passed", True)


@pytest.mark.parametrize(
    "changes",
    [
        {"versions": ("0.1.0+ward7",)},
        {"versions": ("0.1.0", "0.1.0")},
        {"machines": ("cuda", "cpu")},
        {"machines": ("abacus",)},
        {"begun": "2026-02-30"},
        {"begun": "20260228"},
        {"checks": "failed"},
        {"runs": 0},
        {"runs": 10**9},
        {"chosen_by": "Ada"},
        {"seen_by": "Ada"},
        {"runs": 2, "chosen_by": "only-run"},
    ],
)
def test_other_values_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Circumstances(**changes)


@pytest.mark.parametrize(
    "said",
    [
        {"purpose": ""},
        {"purpose": "x" * 301},
        {"source": "two\nlines"},
        {"contact": "\x1b[31mred"},
        {"contact": "a\u202eb"},
        {"source": "not stated"},
        {"license": "my own"},
        {"license": "-MIT"},
    ],
)
def test_texts_are_short_lines_that_steer_nothing(said: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(said))):
        Said(**said)


@pytest.mark.parametrize("part", ["tool", "trust_model", "selection", "said_by_the_publisher"])
def test_no_part_may_lack_or_add_a_key(part: str) -> None:
    stored: dict[str, Any] = FULL.to_json()
    for changed in ({**stored[part], "more": "x"}, {}, None, []):
        with pytest.raises(DamagedFileError, match=part):
            Circumstances.from_json({**stored, part: changed}, "it")


def test_the_words_of_options_are_those_of_statements() -> None:
    from typing import get_args

    from dpdm_cli import choices

    assert get_args(choices.ChosenBy) == tuple(CHOSEN_BY)
    assert get_args(choices.SeenBy) == tuple(SEEN_BY)
    assert sorted(MACHINES) == list(MACHINES)
