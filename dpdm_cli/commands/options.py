"""Options that several commands share, so that they read and behave alike everywhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

PRIVACY, DATA, MODEL, TRAINING, OUTPUT = "Privacy", "Data", "Model", "Training", "Output"


class Preset(StrEnum):
    """Settings that come with the package."""

    small = "small"
    paper = "paper"


SettingsFor = Annotated[
    str | None,
    typer.Option(
        metavar="SET",
        help="Take the preset's settings for this data set, celeba64 or imagenet32 for example; what is known of the "
        "images, N for one, stays that of the data. (default: those for a named set)",
        rich_help_panel=MODEL,
        show_default=False,
    ),
]


class WarmStart(StrEnum):
    """What is released of each class before the first step."""

    none = "none"
    means = "means"
    moments = "moments"


class Precision(StrEnum):
    """How products of forward and backward passes are rounded."""

    auto = "auto"
    float32 = "float32"
    tf32 = "tf32"
    bf16 = "bf16"


class Init(StrEnum):
    """What a network starts from."""

    none = "none"
    procedural = "procedural"


Json = Annotated[
    bool,
    typer.Option("--json", help="Print the result as one JSON object.", rich_help_panel=OUTPUT),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Print nothing but warnings and errors.", rich_help_panel=OUTPUT
    ),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", help="Say more about how it is done.", rich_help_panel=OUTPUT),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        envvar="DPDM_DATA_DIR",
        help="Where named data sets lie, as torchvision lays them out. (default: the user's cache)",
        rich_help_panel=DATA,
        show_default=False,
    ),
]
Download = Annotated[
    bool,
    typer.Option(
        "--download/--no-download", help="Fetch a named set that is missing.", rich_help_panel=DATA
    ),
]
ImageSize = Annotated[
    int | None, typer.Option(help="Crop and resize images to this side.", rich_help_panel=DATA)
]
Channels = Annotated[
    int | None,
    typer.Option(help="1 for grey, 3 for colour. (default: the images' own)", rich_help_panel=DATA),
]
Classes = Annotated[
    str | None,
    typer.Option(
        help="Class names in label order, with commas; they may have no image. (default: the subfolders)",
        rich_help_panel=DATA,
    ),
]
PublicMetadata = Annotated[
    bool,
    typer.Option(
        "--public-metadata",
        help="Number of images, class names, image size and colours are public knowledge: read off your images "
        "and published where they are not stated.",
        rich_help_panel=PRIVACY,
    ),
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, mps or auto.", rich_help_panel=TRAINING)
]
