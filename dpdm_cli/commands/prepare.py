"""`dpdm prepare`: any number of images become one file that training maps into memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpdm_cli import choices
from dpdm_cli.commands.console import Console, pairs_table
from dpdm_cli.commands.options import (
    DATA,
    Channels,
    Classes,
    DataDir,
    Download,
    FileColumn,
    ImageSize,
    Json,
    LabelColumn,
    Labels,
    Layout,
    PersonColumn,
    Quiet,
    SkipBad,
    Window,
    interval,
    listed,
    option,
)
from dpdm_cli.compute.launched import require_one_process

if TYPE_CHECKING:
    import rich.table

    from dpdm_cli.data.prepare.preparing import PrepareResult


def prepare(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A folder (one subfolder per class, or flat), zip or npz of images, or a named set.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="The file, OUT.safetensors; the same command continues there.",
            show_default=False,
        ),
    ],
    image_size: ImageSize = None,
    channels: Channels = None,
    classes: Classes = None,
    split: Annotated[
        choices.Split, option("Which split, of a set that has them.", panel=DATA)
    ] = "train",
    labels: Labels = None,
    label_column: LabelColumn = None,
    file_column: FileColumn = None,
    person_column: PersonColumn = None,
    layout: Layout = None,
    window: Window = None,
    skip_bad: SkipBad = False,
    hold_out: Annotated[
        float | None,
        option(
            "Put this share of the images, or of the persons where these are known, into a file of their own, to test "
            "on.",
            "--hold-out",
            metavar="SHARE",
            panel=DATA,
            default="none",
        ),
    ] = None,
    seed: Annotated[int, option("Of which are held out.", panel=DATA)] = 0,
    data_dir: DataDir = None,
    download: Download = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a data set once and write it to one file that training maps into memory.

    Example: dpdm prepare imagenet.zip imagenet32.safetensors --image-size 32
    """
    require_one_process("dpdm prepare")
    console = Console(as_json=as_json, quiet=quiet)
    from dpdm_cli.data.prepare import preparing

    result = preparing.prepare(
        source,
        out,
        split=split,
        data_dir=data_dir,
        download=download,
        image_size=image_size,
        channels=channels,
        classes=listed(classes),
        labels=labels,
        label_column=label_column,
        file_column=file_column,
        person_column=person_column,
        layout=layout,
        window=interval(window),
        skip_bad=skip_bad,
        hold_out=hold_out,
        seed=seed,
        reporter=console,
    )
    console.result(result.to_dict(), lambda: _table(result))


def _table(result: PrepareResult) -> rich.table.Table:
    facts = result.facts
    n, channels, height, width = facts.shape
    values = {
        "images": f"{n:,} of {height}x{width}, {'grey' if channels == 1 else 'colour'}",
        "classes": len(facts.classes) or "none",
        "duplicates": f"{facts.duplicates:,}",
        "persons": "known" if facts.persons_sha256 else "not known",
        "left out": f"{facts.bad:,}",
        "file": f"{result.path}{' (was complete already)' if result.was_there else ''}",
        "keep it": "where the private images are: it holds them, and no claim covers it",
        "use it": f"dpdm train {result.path}",
    }
    if (apart := result.held_out) is not None:
        values["held out"] = f"{apart.facts.shape[0]:,} images, to test on: {apart.path}"
        values["test on it"] = f"dpdm classify SYNTH --test {apart.path}"
    return pairs_table(values)
