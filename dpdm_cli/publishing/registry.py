"""A verified claim in the fields of OpenDP's registry of deployments of differential privacy.

The fields are those of the registry's own template (github.com/opendp/deployments-registry-data, autumn 2026), whose
records are YAML, of which JSON is a part. What no statement says is left out where the registry allows it, and says
"not stated" else; a person fills it in and proposes the record.
"""

from __future__ import annotations

from pathlib import Path

from dpdm_cli.files import write_bytes
from dpdm_cli.privacy.circumstances import NOT_STATED
from dpdm_cli.privacy.plan_file import refuse_existing
from dpdm_cli.privacy.statement import MECHANISM
from dpdm_cli.publishing.claim_sections import budget_words, risk_words
from dpdm_cli.publishing.verification import Artefact
from dpdm_cli.stored import Json, json_text

_PRODUCT = {"samples": "Synthetic data"}


def write_record(path: Path, artefact: Artefact) -> None:
    """Write the record of an artefact to a new file.

    Raises:
        UsageError: there is something at `path`.
        ResourceError: it cannot be written.
    """
    refuse_existing(path)
    write_bytes(path, json_text(registry_record(artefact)))


def registry_record(artefact: Artefact) -> Json:
    """The record: a draft, of the registry's second tier."""
    statement, about = artefact.statement, artefact.statement.about
    plan, said = statement.plan, statement.about.said
    product = _PRODUCT.get(artefact.kind, "Machine learning model")
    basic = {
        "name": NOT_STATED,
        "data_curators": [{"data_curator_name": NOT_STATED}],
        "description": f"{product} for images, trained by a diffusion model under differential privacy. "
        f"{statement.text}",
        "intended_use": said.purpose or NOT_STATED,
        "data_product_type": product,
        "data_product_region": NOT_STATED,
    }
    if about.begun is not None:
        basic["publication_date"] = about.begun
    risk = "; ".join(f"{name}: {bound}" for name, bound in risk_words(statement.risk).items())
    return {
        "url_slug": f"dpdm-{statement.ledger.head[:12]}",
        "deployment": {
            "basic": basic,
            "dp_variant": {
                "variant_name": "Approximate DP",
                "data_domain": f"Sets of images. Where they are from: {said.source or NOT_STATED}.",
                "unprotected_quantities": statement.public_inputs.text_for(plan.record),
            },
            "privacy_loss": {
                "privacy_unit": "Record-level" if plan.record == "image" else "Person-level",
                "privacy_unit_details": f"{plan.unit}; {plan.adjacency}.",
                "number_of_privacy_units": plan.dataset_size,
                "privacy_parameters": {"epsilon": statement.epsilon, "delta": plan.delta},
                "privacy_parameters_details": f"By {statement.accountant.upper()}. An attacker's, at most: {risk}.",
            },
            "deployment_model": {
                "model_name": "Central",
                "trust_assumptions": about.trust_text,
                "actors": f"Who answers for what is published: {said.contact or NOT_STATED}.",
                "release_type": "One release",
                "release_type_details": f"{about.selection_text}.",
                "data_source_type": "Static",
                "access_type": "Non-interactive",
            },
            "implementation": {
                "preprocessing_and_hyperparameter_tuning": f"{about.selection_text}. Tuning on the private images is "
                "not covered by the claim.",
                "mechanisms": f"{MECHANISM}, by dpdm {', '.join(about.versions) or '(release not recorded)'}; noise on "
                "a public grid.",
                "composition": f"{plan.steps:,} steps and {plan.warm_releases} sums of a warm start, composed by "
                f"{', '.join(name.upper() for name in statement.epsilon_by)}. Budget by part: "
                f"{budget_words(statement.risk)}.",
                "post_processing": "Adam, a running average of the weights, and everything drawn from the model.",
                "justification": NOT_STATED,
                "additional_information": "Not covered: " + "; ".join(statement.not_covered) + ".",
            },
            "administrative": {
                "status": "Draft",
                "registry_authors": [NOT_STATED],
                "tier": 2,
            },
        },
    }
