"""Model and data cards: what a reader of published files should know, made from the statement and nothing private."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dpdm_cli.privacy.public_inputs import PublicInputs
from dpdm_cli.privacy.statement import headline

CARD = "README.md"
"""What a card is called, so that people and hosts find it."""

_NO_EVALUATION = "None is stated."


def model_card(
    statement: Mapping[str, Any],
    *,
    network: Mapping[str, Any],
    parameters: int,
    classes: tuple[str, ...],
    dataset: str,
    sha256: str,
    evaluation: str,
) -> str:
    """The card of a model, in Markdown."""
    side = network["image_size"]
    colours = "grey" if network["image_channels"] == 1 else "colour"
    return "\n".join(
        [
            "# A generator of images, trained under differential privacy",
            "",
            f"**{headline(dict(statement))}**",
            "",
            str(statement["text"]),
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


def data_card(metadata: Mapping[str, Any], evaluation: str) -> str:
    """The card of a set of synthetic images, in Markdown."""
    statement = metadata["statement"]
    sampler = ", ".join(f"{name} {value}" for name, value in metadata["sampler"].items())
    return "\n".join(
        [
            "# Synthetic images, drawn from a model trained under differential privacy",
            "",
            f"**{headline(dict(statement))}**",
            "",
            "No image here is a real one. For the model that drew them:",
            "",
            str(statement["text"]),
            "",
            "![The first images of each class](grid.png)",
            "",
            "| | |",
            "|---|---|",
            f"| images | {metadata['n']:,}, {metadata['format']}{_shard(metadata)} |",
            f"| classes | {_listed(metadata['drawn']) or 'none'}, drawn in turn: their shares tell nothing |",
            f"| model trained on | {_dataset(metadata['dataset'])} |",
            f"| sampler | {sampler}; seed {metadata['seed']} |",
            f"| SHA-256 of the model | `{metadata['checkpoint_sha256']}` |",
            f"| SHA-256 of the images | `{metadata['images_sha256']}` |",
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


def _shard(metadata: Mapping[str, Any]) -> str:
    shard = metadata.get("shard")
    if shard is None:
        return ""
    return f"; shard {shard['number']} of {shard['of']} of a set of {shard['whole_n']:,}"


def _dataset(name: str) -> str:
    return "images that are not published" if name == "custom" else f"the set {name}"


def _plan(statement: Mapping[str, Any]) -> list[str]:
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
    by = ", ".join(f"{k.upper()} {v}" for k, v in statement["epsilon_by"].items())
    return [
        "## Privacy",
        "",
        "| | |",
        "|---|---|",
        *(f"| {words} | {statement[name]} |" for name, words in names.items()),
        f"| taken as known to everybody | {PublicInputs.from_dict(statement['public_inputs']).words} |",
        f"| epsilon by accountant | {by} |",
        f"| head of the ledger | `{statement['ledger']['head']}` |",
        "",
        "`dpdm verify` recomputes all of this from the files.",
        "",
    ]


def _evaluation(text: str) -> list[str]:
    return ["## Evaluation", "", text.strip() or _NO_EVALUATION, ""]


def _not_covered(statement: Mapping[str, Any]) -> list[str]:
    return [
        "## What the claim does not cover",
        "",
        *(f"- {line}" for line in statement["not_covered"]),
        "",
    ]
