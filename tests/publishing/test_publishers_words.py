"""What a publisher says reaches statement, card and screen as a text, is theirs alone, and is never guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.drawn import draw
from typer.testing import CliRunner

from dpdm_cli import release, verify
from dpdm_cli.checkpoint import load_model
from dpdm_cli.commands.app import app
from dpdm_cli.errors import UsageError
from dpdm_cli.privacy.circumstances import NOTHING_KNOWN
from dpdm_cli.publishing.publishers_words import with_words

MODEL = Path(__file__).parents[2] / "examples" / "pretrained" / "mnist-eps10"
HOSTILE = "[x](javascript:alert(1)) <img src=x> | `a` [red]b[/]"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("published") / "model"
    words: dict[str, Any] = dict.fromkeys(("purpose", "images_from", "contact"), HOSTILE)
    release(
        MODEL, out, runs=12, chosen_by="samples", seen_by="operator", license="cc-by-4.0", **words
    )
    return out


def test_words_are_in_statement_and_card_and_a_card_takes_them_for_no_markup(
    published: Path,
) -> None:
    statement = json.loads((published / "statement.json").read_text())
    said = statement["said_by_the_publisher"]
    assert said == {
        "purpose": HOSTILE,
        "source": HOSTILE,
        "contact": HOSTILE,
        "license": "CC-BY-4.0",
    }
    assert statement["selection"] == {"runs": 12, "chosen_by": "samples"}
    assert statement["trust_model"]["images_seen_by"] == "operator"
    card = (published / "README.md").read_text()
    span = HOSTILE.replace("|", "\\|")
    assert card.count(f"`` {span} ``") == 3 == card.count("javascript:")
    assert "runs made on these images: 12" in card


def test_the_screen_shows_them_as_they_are_and_says_how_to_restate(published: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(published)], env={"COLUMNS": "500"})
    assert result.exit_code == 0, result.output
    assert f"Said by the publisher, purpose: {HOSTILE}" in result.stdout
    assert "--selection runs:12 restates it" in result.stdout


def test_a_choice_by_private_figures_is_said_to_be_covered_by_nothing(tmp_path: Path) -> None:
    release(MODEL, tmp_path / "out", runs=3, chosen_by="private-images")
    result = CliRunner().invoke(app, ["verify", str(tmp_path / "out")], env={"COLUMNS": "500"})
    assert "nothing here covers a choice by figures of the private images" in result.stdout


def test_the_next_release_keeps_what_is_from_lists_and_drops_what_are_words(
    published: Path, tmp_path: Path
) -> None:
    draw(published, tmp_path / "drawn", n=2, batch_size=2, steps=1)
    verify([tmp_path / "drawn"])
    for source in (published, tmp_path / "drawn"):
        out = tmp_path / f"out-{source.name}"
        release(source, out)
        for path in out.rglob("*"):
            assert not path.is_file() or b"javascript:" not in path.read_bytes()
        (found,) = verify([out]).artefacts
        about = found.statement.about
        assert (about.runs, about.chosen_by, about.seen_by) == (12, "samples", "operator")
        assert about.said == NOTHING_KNOWN.said


def test_runs_of_which_one_was_chosen_are_composed() -> None:
    (one,) = verify([MODEL]).artefacts
    of = {k: verify([MODEL], selection=f"runs:{k}").restated[0].epsilon for k in (1, 2, 4)}
    assert of[1] == pytest.approx(one.claim.epsilon, rel=1e-6)
    assert one.claim.epsilon < of[2] < 2 * one.claim.epsilon
    assert of[2] < of[4] < 2 * of[2]
    for wrong in ("runs:0", "runs:-1", "runs:1.5", "runs:", "runs:9999999999", "all"):
        with pytest.raises(UsageError, match="unknown selection"):
            verify([MODEL], selection=wrong)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"license": "CC-BY-4"}, "CC-BY-4.0"),
        ({"license": "mine"}, "SPDX"),
        ({"license": "LicenseRef-../x"}, "SPDX"),
        ({"purpose": "two\nlines"}, "--purpose"),
        ({"images_from": "\x1b[2J"}, "--source"),
        ({"contact": "x" * 301}, "--contact"),
        ({"contact": ""}, "--contact"),
        ({"runs": 0}, "--runs"),
        ({"runs": 2, "chosen_by": "only-run"}, "--chosen-by"),
    ],
)
def test_what_cannot_be_said_is_refused_before_anything_is_written(
    words: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        release(MODEL, tmp_path / "out", **words)
    assert said in f"{caught.value.message} {caught.value.hint}"
    assert not any(tmp_path.iterdir())


def test_licenses_are_spelt_as_spdx_does_and_own_ones_are_allowed() -> None:
    for given, written in (
        ("apache-2.0", "Apache-2.0"),
        ("LicenseRef-Ward-7", "LicenseRef-Ward-7"),
    ):
        assert with_words(NOTHING_KNOWN, license=given).said.license == written
    assert with_words(NOTHING_KNOWN).said.license is None


def test_weights_are_the_same_whatever_is_said(published: Path) -> None:
    ours, theirs = (load_model(path).denoiser.state_dict() for path in (published, MODEL))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
