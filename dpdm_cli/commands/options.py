"""Options that several commands share, so that they read and behave alike everywhere. A letter means one thing in all.

Options without a panel come first in the help: what most calls are about.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dpdm_cli import choices
from dpdm_cli.errors import UsageError

PRIVACY, DATA, MODEL, TRAINING, OUTPUT = "Privacy", "Data", "Model", "Training", "Output"

EPSILON = "--epsilon", "--eps", "-e"
OUT = "--out", "-o"

OF_PRESET = "the preset's"


def option(
    help: str, *flags: str, panel: str | None = None, default: bool | str = True, **more: Any
) -> Any:
    """A Typer option; `default` says in words what an absent value stands for."""
    return typer.Option(*flags, help=help, rich_help_panel=panel, show_default=default, **more)


ALIASES = {
    "--target-epsilon": "--epsilon",
    "--target-delta": "--delta",
    "--max-grad-norm": "--clip-norm",
}
"""Opacus' names, understood and not shown."""


class Command(typer.core.TyperCommand):
    """A command that also takes `ALIASES`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put our names in the place of the others."""
        pairs = (word.partition("=") for word in args)
        return super().parse_args(
            ctx, [ALIASES.get(name, name) + sign + value for name, sign, value in pairs]
        )


Delta = Annotated[
    float | None, option("Delta of the claim, below 1/N.", "--delta", default=OF_PRESET)
]
ClipNorm = Annotated[
    float | None,
    option(
        "C, the largest norm of the gradient of one image (or person); no claim depends on it.",
        "--clip-norm",
        "-C",
        panel=PRIVACY,
        default=OF_PRESET,
    ),
]
NoiseMultiplicity = Annotated[
    int | None,
    option(
        "K, noisy copies of each image (or person) in a step; they cost no privacy.",
        "--noise-multiplicity",
        "-K",
        panel=PRIVACY,
        default=OF_PRESET,
    ),
]
BatchSize = Annotated[
    int | None,
    option(
        "B, the expected number of images (or persons) in a step.",
        "--batch-size",
        "-B",
        panel=PRIVACY,
        default=OF_PRESET,
    ),
]
Epochs = Annotated[
    int | None, option("Length in passes: epochs * N / B steps.", panel=PRIVACY, default=OF_PRESET)
]
Steps = Annotated[int | None, option("Length in steps.", panel=PRIVACY, default=OF_PRESET)]
Unit = Annotated[
    choices.Unit | None,
    option(
        "What the claim protects: one image, or one person with all of their images. With person, N and B count "
        "persons.",
        panel=PRIVACY,
        default="image",
    ),
]
DatasetSize = Annotated[
    int | None,
    option(
        "N, the number of images (or persons) as the public may know it.",
        "--dataset-size",
        panel=PRIVACY,
        default="a named set's",
    ),
]
PublicMetadata = Annotated[
    bool,
    option(
        "Number of images, class names, image size and colours are public knowledge: read off your images, and "
        "published where they are not stated.",
        "--public-metadata",
        panel=PRIVACY,
    ),
]
Accountant = Annotated[
    str | None,
    option("The accountant of the claim: prv, rdp or pld.", panel=PRIVACY, default="prv"),
]
ImagesPerPerson = Annotated[
    int | None,
    option(
        "Restate a claim for one image for people with up to M of them.",
        metavar="M",
        default="none",
    ),
]
WarmShare = Annotated[
    float | None,
    option("Share of the budget for the warm start.", panel=PRIVACY, default=OF_PRESET),
]
PlanFile = Annotated[
    Path | None,
    option(
        "Follow a plan saved by `dpdm calibrate --out`, unchanged.",
        metavar="FILE",
        panel=PRIVACY,
        default="none",
    ),
]
SettingsFor = Annotated[
    str | None,
    option(
        "Take the preset's settings for this data set, celeba64 or imagenet32 for example; what is known of the "
        "images, N for one, stays that of the data.",
        metavar="SET",
        panel=MODEL,
        default="those for a named set",
    ),
]
Precision = Annotated[choices.Precision, option("Of forward and backward passes.", panel=TRAINING)]
MicroBatch = Annotated[
    int | None, option("Images at a time; speed and memory only.", panel=TRAINING, default="chosen")
]
Device = Annotated[str, option("cpu, cuda, cuda:1, mps or auto.", panel=TRAINING)]
DataDir = Annotated[
    Path | None,
    option(
        "Where named data sets are, as torchvision lays them out.",
        envvar="DPDM_DATA_DIR",
        panel=DATA,
        default="the user's cache",
    ),
]
Download = Annotated[
    bool, option("Fetch a named set that is missing.", "--download/--no-download", panel=DATA)
]
ImageSize = Annotated[
    int | None,
    option("Crop and resize images to this side.", panel=DATA, default="the images' own"),
]
Channels = Annotated[
    int | None, option("1 for grey, 3 for colour.", panel=DATA, default="the images' own")
]
Classes = Annotated[
    str | None,
    option(
        "Class names in label order, with commas; they may have no image.",
        panel=DATA,
        default="the subfolders",
    ),
]
Labels = Annotated[
    Path | None,
    option(
        "A table with the label of each image: CSV, jsonl or parquet.",
        metavar="FILE",
        panel=DATA,
        default="metadata.csv, .jsonl or .parquet beside the images, or the subfolders",
    ),
]
LabelColumn = Annotated[
    str | None,
    option(
        "Its column of labels.",
        "--label-column",
        metavar="NAME",
        panel=DATA,
        default="class, label or diagnosis",
    ),
]
FileColumn = Annotated[
    str | None,
    option(
        "Its column of files.",
        "--file-column",
        metavar="NAME",
        panel=DATA,
        default="file_name, filename, image or path",
    ),
]
PersonColumn = Annotated[
    str | None,
    option(
        "Its column that says whom an image is of; what stands there goes nowhere.",
        "--person-column",
        metavar="NAME",
        panel=DATA,
        default="none",
    ),
]
Layout = Annotated[
    choices.FolderLayout | None,
    option("What nested folders stand for.", panel=DATA, default="one folder a class, or none"),
]
Window = Annotated[
    str | None,
    option(
        "Which values become black and white in images of more than 8 bits, such as 0,4095, fixed beforehand; of "
        "DICOM after rescaling.",
        metavar="LOW,HIGH",
        panel=DATA,
        default="none",
    ),
]
SkipBad = Annotated[
    bool,
    option(
        "Leave out files that cannot be used, and images without a label.", "--skip-bad", panel=DATA
    ),
]
Json = Annotated[bool, option("Print the result as one JSON object.", "--json", panel=OUTPUT)]
Quiet = Annotated[
    bool, option("Print nothing but warnings and errors.", "--quiet", "-q", panel=OUTPUT)
]


def interval(text: str | None) -> tuple[float, float] | None:
    """Two numbers given with a comma.

    Raises:
        UsageError: something else.
    """
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UsageError(
            f"a window is two numbers with a comma, found {text!r}", "for example --window 0,4095"
        ) from None
    return low, high


def listed(names: str | None) -> list[str] | None:
    """Names given with commas."""
    return names.split(",") if names else None


def numbers(text: str, name: str) -> tuple[float, ...]:
    """Numbers given with commas, each once. Raises UsageError: one is none."""
    try:
        return tuple(dict.fromkeys(float(word) for word in text.split(",")))
    except ValueError:
        raise UsageError(
            f"{name} is {text[:80]!r}, no number and no list of them",
            f"for example: {name} 10, or {name} 1,2,10",
        ) from None
