"""Model and data cards: what a reader of published files should know, made from the statement and nothing private."""

from __future__ import annotations

from collections.abc import Iterable

from dpdm_cli.privacy.statement import Statement
from dpdm_cli.publishing.claim_sections import claim_sections, literal
from dpdm_cli.sampling.sample_metadata import SampleMetadata

_NO_EVALUATION = "None is stated."


def model_card(
    statement: Statement,
    *,
    image_shape: tuple[int, int, int],
    parameters: int,
    classes: tuple[str, ...],
    dataset: str,
    sha256: str,
    evaluation: str,
) -> str:
    """The card of a model, in Markdown."""
    channels, side, _ = image_shape
    colours = "grey" if channels == 1 else "colour"
    return "\n".join(
        [
            "# A generator of images, trained under differential privacy",
            "",
            f"**{statement.headline}**",
            "",
            statement.text,
            "",
            "![Images drawn from the model](samples.png)",
            "",
            "| | |",
            "|---|---|",
            f"| draws | {side}x{side} {colours} images |",
            f"| classes | {_listed(classes) or 'none: unconditional'} |",
            f"| trained on | {_dataset(dataset)} |",
            f"| network | a diffusion U-Net of {parameters:,} parameters |",
            f"| SHA-256 of model.safetensors | `{sha256}` |",
            "",
            "Draw images with `dpdm sample model.safetensors -n 1000`: that costs no more privacy, however many.",
            "",
            *claim_sections(statement),
            *_evaluation(evaluation),
            *_not_covered(statement),
        ]
    )


def data_card(
    metadata: SampleMetadata, statement: Statement, images_sha256: str, evaluation: str
) -> str:
    """The card of a set of synthetic images with a claim, in Markdown."""
    sampler = ", ".join(f"{name} {value}" for name, value in metadata.sampler.to_dict().items())
    return "\n".join(
        [
            "# Synthetic images, drawn from a model trained under differential privacy",
            "",
            f"**{statement.headline}**",
            "",
            "No image here is a real one. For the model that drew them:",
            "",
            statement.text,
            "",
            "![The first images of each class](grid.png)",
            "",
            "| | |",
            "|---|---|",
            f"| images | {metadata.count:,}, {metadata.format}{_shard(metadata)} |",
            f"| classes | {_listed(metadata.drawn) or 'none'}, drawn in turn: their shares tell nothing |",
            f"| model trained on | {_dataset(metadata.dataset)} |",
            f"| sampler | {sampler}; seed {metadata.seed} |",
            f"| SHA-256 of the model | `{metadata.checkpoint_sha256}` |",
            f"| SHA-256 of the images | `{images_sha256}` |",
            "",
            *claim_sections(statement),
            *_evaluation(evaluation),
            *_not_covered(statement),
        ]
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(literal, names))


def _shard(metadata: SampleMetadata) -> str:
    shard = metadata.shard
    if shard is None:
        return ""
    return f"; shard {shard.number} of {shard.of} of a set of {metadata.n:,}"


def _dataset(name: str) -> str:
    return "images that are not published" if name == "custom" else f"the set {name}"


def _evaluation(text: str) -> list[str]:
    return ["## Evaluation", "", text.strip() or _NO_EVALUATION, ""]


def _not_covered(statement: Statement) -> list[str]:
    return [
        "## What the claim does not cover",
        "",
        *(f"- {line}" for line in statement.not_covered),
        "",
    ]
