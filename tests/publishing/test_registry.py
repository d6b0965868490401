"""The record of a claim has the fields of OpenDP's registry, and says nothing that the statement does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dpdm_cli import verify
from dpdm_cli.commands.app import app
from dpdm_cli.publishing.registry import registry_record

PRETRAINED = Path(__file__).parents[2] / "examples" / "pretrained"
MODEL = PRETRAINED / "mnist-eps10"

TEMPLATE: dict[str, set[str]] = {
    "": {"url_slug", "deployment"},
    "deployment": {
        *("basic", "dp_variant", "privacy_loss", "deployment_model", "implementation"),
        "administrative",
    },
    "basic": {
        *("name", "data_curators", "description", "intended_use", "data_product_type"),
        *("data_product_region", "data_product_sector", "publication_date"),
    },
    "dp_variant": {"variant_name", "data_domain", "unprotected_quantities"},
    "privacy_loss": {
        *("privacy_unit", "privacy_unit_details", "number_of_privacy_units"),
        *("privacy_parameters", "privacy_parameters_details"),
    },
    "privacy_parameters": {"epsilon", "delta", "rho"},
    "deployment_model": {
        *("model_name", "model_name_details", "trust_assumptions", "actors", "release_type"),
        *("release_type_details", "data_source_type", "data_source_type_details"),
        *("access_type", "access_type_details"),
    },
    "implementation": {
        *("preprocessing_and_hyperparameter_tuning", "mechanisms", "composition"),
        *("post_processing", "justification", "utility", "additional_information"),
    },
    "administrative": {"evidence_sources", "status", "registry_authors", "tier"},
}
"""Fields by the object they are in: tests/good_deployments/template.yaml of the registry, as of autumn 2026."""


def test_every_field_is_one_of_the_registrys_template() -> None:
    record = registry_record(verify([MODEL]).artefacts[0])

    def look(name: str, values: dict[str, Any]) -> None:
        assert set(values) <= TEMPLATE[name], name
        for inner, value in values.items():
            if isinstance(value, dict):
                look(inner, value)
            else:
                assert value not in ("", None)

    look("", record)
    json.dumps(record, allow_nan=False)


def test_the_command_writes_the_figures_of_the_statement_to_a_new_file(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    words = ["verify", str(MODEL), "--registry", str(file)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "fill in what is not stated" in result.stderr
    deployment = json.loads(file.read_text())["deployment"]
    statement = json.loads((MODEL / "statement.json").read_text())
    loss = deployment["privacy_loss"]
    assert loss["privacy_parameters"] == {n: statement[n] for n in ("epsilon", "delta")}
    assert loss["number_of_privacy_units"] == 60_000
    assert statement["text"] in deployment["basic"]["description"]
    assert "publication_date" not in deployment["basic"]  # the model's day was not recorded
    assert "not stated" in deployment["deployment_model"]["release_type_details"]
    content = file.read_bytes()
    assert CliRunner().invoke(app, words).exit_code == 2
    assert file.read_bytes() == content


@pytest.mark.parametrize("second", ["fashion-mnist-eps10"])
def test_a_record_is_of_one_artefact(tmp_path: Path, second: str) -> None:
    file = tmp_path / "out.json"
    result = CliRunner().invoke(
        app, ["verify", str(MODEL), str(PRETRAINED / second), "--registry", str(file)]
    )
    assert result.exit_code == 2
    assert not file.exists()
