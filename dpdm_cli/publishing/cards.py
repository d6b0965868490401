"""Model and data cards: what a reader of published files should know, made from the statement and nothing private."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dpdm_cli.checkpoint import CUSTOM, dataset_in_words
from dpdm_cli.privacy.accounting.claims import round_up
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.statement import Statement
from dpdm_cli.publishing.claim_sections import claim_sections, literal
from dpdm_cli.publishing.front_matter import data_head, model_head
from dpdm_cli.publishing.verification import Restated
from dpdm_cli.sampling.png import DIGITAL_SOURCE_TYPE
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
    people: str,
    base_model: str | None = None,
) -> str:
    """The card of a model, in Markdown with a head in YAML; `people` is what its claim is worth for one, `for_people`.

    Raises:
        UsageError: see `model_head`.
    """
    channels, side, _ = image_shape
    colours = "grey" if channels == 1 else "colour"
    return "\n".join(
        [
            *model_head(statement, base_model),
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
            *_drawing(),
            *claim_sections(statement),
            *_people(people),
            *_evaluation(evaluation),
            *_not_covered(statement),
        ]
    )


def data_card(
    metadata: SampleMetadata,
    statement: Statement,
    images_sha256: str,
    evaluation: str,
    people: str,
) -> str:
    """The card of a set of synthetic images with a claim, in Markdown with a head in YAML; `people` as of a model."""
    sampler = ", ".join(f"{name} {value}" for name, value in metadata.sampler.to_dict().items())
    return "\n".join(
        [
            *data_head(metadata, statement),
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
            f"| classes | {_classes(metadata)} |",
            f"| made by | a trained model: [digital source type]({DIGITAL_SOURCE_TYPE}){_marked(metadata)} |",
            f"| model trained on | {_dataset(metadata.dataset)} |",
            f"| sampler | {sampler}; seed {metadata.seed} |",
            f"| SHA-256 of the model | `{metadata.checkpoint_sha256}` |",
            f"| SHA-256 of the images | `{images_sha256}` |",
            "",
            *_loading(metadata),
            *claim_sections(statement),
            *_people(people),
            *_evaluation(evaluation),
            *_not_covered(statement),
        ]
    )


def for_people(
    plan: PrivacyPlan, images_per_person: int | None, restated: Sequence[Restated]
) -> str:
    """What a claim is worth for a person: it is for one, it was restated for so many images, or nobody has asked."""
    if plan.record == "person":
        return "The claim is for one person, however many of the images are theirs."
    if images_per_person is not None:
        (answer,) = restated
        return (
            f"The claim is for one image. For {answer.question}, all of them added or removed together, it is worth "
            f"epsilon {round_up(answer.epsilon, 4)} at delta {plan.delta} ({answer.source}). That nobody has more is "
            "said by whoever released this."
        )
    return (
        "The claim is for one image, and worth less for a person with several. How many images a person has at most "
        "was not said, so no figure for a person stands here: `dpdm release --images-per-person M` states it, and "
        "`dpdm verify --images-per-person M` computes it for any M. A run with `--unit person` makes the claim for one "
        "person itself."
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(literal, names))


def _classes(metadata: SampleMetadata) -> str:
    if not metadata.drawn:
        return "none"
    if metadata.proportions is None:
        return f"{_listed(metadata.drawn)}, drawn in turn: their shares tell nothing"
    shares = metadata.proportions.items()
    listed = ", ".join(f"{_listed([name])} {share:.4g}" for name, share in shares)
    return f"{listed}: shares that were chosen and are stated as public"


def _marked(metadata: SampleMetadata) -> str:
    if not metadata.marked:
        return ""
    return "; the grid says so as XMP" if metadata.format == "npz" else "; each PNG says so as XMP"


def _drawing() -> list[str]:
    return [
        "## Drawing images",
        "",
        "In a folder with these files; it costs no more privacy, however many are drawn:",
        "",
        "```bash",
        "pip install dpdm-cli",
        "dpdm verify model.safetensors",
        "dpdm sample model.safetensors -n 1000 --out images",
        "```",
        "",
    ]


def _loading(metadata: SampleMetadata) -> list[str]:
    """How to read the images, in a folder with the files."""
    lines = {
        "png": [
            'datasets.load_dataset("imagefolder", data_dir=".")',
            'torchvision.datasets.ImageFolder("train")',
        ],
        "zip": ['datasets.load_dataset("imagefolder", data_dir=".")'],
        "parquet": ['datasets.load_dataset("parquet", data_files="samples.parquet")'],
        "npz": ['numpy.load("samples.npz")  # images, labels, classes'],
    }[metadata.format]
    if metadata.format == "png" and not metadata.classes:
        lines.pop()  # it needs classes
    return ["## Loading", "", "```python", *lines, "```", ""]


def _shard(metadata: SampleMetadata) -> str:
    shard = metadata.shard
    if shard is None:
        return ""
    return f"; shard {shard.number} of {shard.of} of a set of {metadata.n:,}"


def _dataset(name: str) -> str:
    return dataset_in_words(name) if name == CUSTOM else f"the set {name}"


def _people(text: str) -> list[str]:
    return ["## People", "", text, ""]


def _evaluation(text: str) -> list[str]:
    return ["## Evaluation", "", text.strip() or _NO_EVALUATION, ""]


def _not_covered(statement: Statement) -> list[str]:
    return [
        "## What the claim does not cover",
        "",
        *(f"- {line}" for line in statement.not_covered),
        "",
    ]
