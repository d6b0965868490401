"""Whom a page speaks of, and what its publisher says on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.drawn import save

from dpdm_cli import report
from dpdm_cli.checkpoint import load_model
from dpdm_cli.privacy.circumstances import Said
from dpdm_cli.privacy.public_inputs import PublicInputs
from dpdm_cli.privacy.statement import Statement, private_statement
from dpdm_cli.privacy.units import UNITS

PRETRAINED = Path(__file__).parents[2] / "examples" / "pretrained" / "mnist-eps10"
STATED = PublicInputs(
    **dict.fromkeys(("dataset_size", "classes", "image_size", "channels"), "stated")
)


def page_of(tmp_path: Path, statement: Statement) -> str:
    save(tmp_path / "model.safetensors", statement=statement)
    report(tmp_path / "model.safetensors", (), out=tmp_path / "page.html")
    return (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("unit", UNITS)
def test_a_page_speaks_of_what_the_claim_protects(unit: str, tmp_path: Path) -> None:
    ledger = load_model(PRETRAINED).statement.ledger
    ledger = replace(ledger, plan=replace(ledger.plan, unit=unit))
    words = " ".join(page_of(tmp_path, private_statement(ledger, STATED)).split())
    is_person = unit == "one person"
    assert ("trained on the images of 60,000 persons" in words) == is_person
    assert ("trained on 60,000 images" in words) != is_person
    assert ("Persons found out" in words) == is_person
    assert f"<strong>{unit}</strong>" in words


def test_what_the_publisher_says_stands_there_as_text(tmp_path: Path) -> None:
    statement = private_statement(load_model(PRETRAINED).statement.ledger, STATED)
    said = Said(purpose="<b>teaching</b>", license="CC-BY-4.0")
    page = page_of(tmp_path, replace(statement, about=replace(statement.about, said=said)))
    assert "&lt;b&gt;teaching&lt;/b&gt;" in page
    assert "<b>teaching" not in page
    assert "CC-BY-4.0" in page
    assert "runs made on these images: not stated" in page
