"""Model and data cards: what a reader of published files should know, made from the statement and nothing private."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dpdm_cli.checkpoint import CUSTOM, dataset_in_words
from dpdm_cli.privacy.statement import Statement
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
            *_plan(statement),
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
            *_plan(statement),
            *_evaluation(evaluation),
            *_not_covered(statement),
        ]
    )


def _listed(names: Iterable[str]) -> str:
    """Names that somebody chose, each in a code span of a table: no link, no HTML and no cell of its own."""

    def literal(name: str) -> str:
        fence = "`" * (1 + max(map(len, re.findall("`+", name)), default=0))
        space = " " if len(fence) > 1 else ""
        return f"{fence}{space}{name}{space}{fence}".replace("|", "\\|")

    return ", ".join(map(literal, names))


def _shard(metadata: SampleMetadata) -> str:
    shard = metadata.shard
    if shard is None:
        return ""
    return f"; shard {shard.number} of {shard.of} of a set of {metadata.n:,}"


def _dataset(name: str) -> str:
    return dataset_in_words(name) if name == CUSTOM else f"the set {name}"


def _plan(statement: Statement) -> list[str]:
    names = {
        "epsilon": "epsilon",
        "delta": "delta",
        "adjacency": "neighbouring data sets",
        "unit": "what is protected",
        "dataset_size": "N, public",
        "sampling": "sampling",
        "sample_rate": "q, sampling rate",
        "steps": "steps planned",
        "steps_taken": "steps taken",
        "sigma": "noise multiplier sigma",
        "clip_norm": "clip norm C",
        "noise_multiplicity": "noisy copies an image K",
        "divisor": "divisor",
        "warm_start": "warm start",
        "warm_sigma": "noise on each sum of the warm start",
        "init_from": "SHA-256 of the network it started from",
    }
    values = statement.to_json()
    by = ", ".join(f"{k.upper()} {v}" for k, v in sorted(statement.epsilon_by.items()))
    return [
        "## Privacy",
        "",
        "| | |",
        "|---|---|",
        *(f"| {words} | {values[name]} |" for name, words in names.items()),
        f"| taken as known to everybody | {statement.public_inputs.words} |",
        f"| epsilon by accountant | {by} |",
        f"| head of the ledger | `{statement.ledger.head}` |",
        "",
        "`dpdm verify` recomputes all of this from the files.",
        "",
    ]


def _evaluation(text: str) -> list[str]:
    return ["## Evaluation", "", text.strip() or _NO_EVALUATION, ""]


def _not_covered(statement: Statement) -> list[str]:
    return [
        "## What the claim does not cover",
        "",
        *(f"- {line}" for line in statement.not_covered),
        "",
    ]
