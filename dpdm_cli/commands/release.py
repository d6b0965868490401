"""`dpdm release`: what may be published, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpdm_cli import choices
from dpdm_cli.commands.console import Console, pairs_table
from dpdm_cli.commands.options import ImagesPerPerson, Json, Quiet, option
from dpdm_cli.compute.launched import require_one_process
from dpdm_cli.errors import DataError
from dpdm_cli.files import read_bytes

SAID = "Said in statement and card"
_A_TEXT = "give a text file in UTF-8, or leave --evaluation out"


def release(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|CKPT|SYNTH",
            help="A finished run, a model, or a set of samples.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="A folder that does not exist yet.", show_default=False),
    ],
    evaluation: Annotated[
        Path | None,
        option(
            "Text for the card's section on evaluation. Figures from private images are not covered by the claim.",
            metavar="FILE",
            default="none",
        ),
    ] = None,
    images_per_person: ImagesPerPerson = None,
    base_model: Annotated[
        str | None,
        option(
            "Name on Hugging Face's Hub of the public model whose weights this one started from, for the card.",
            "--base-model",
            metavar="OWNER/NAME",
            default="none",
        ),
    ] = None,
    runs: Annotated[
        int | None,
        option("How many runs were made on these images.", panel=SAID, default="not stated"),
    ] = None,
    chosen_by: Annotated[
        choices.ChosenBy | None,
        option("How this one was chosen among them.", panel=SAID, default="not stated"),
    ] = None,
    seen_by: Annotated[
        choices.SeenBy | None,
        option(
            "Who saw the images: only their holder, also the operator of the machines, or others.",
            panel=SAID,
            default="not stated",
        ),
    ] = None,
    purpose: Annotated[
        str | None, option("What it is meant for, in a line.", panel=SAID, default="not stated")
    ] = None,
    images_from: Annotated[
        str | None,
        option(
            "Where the private images are from, in a line.",
            "--source",
            panel=SAID,
            default="not stated",
        ),
    ] = None,
    contact: Annotated[
        str | None, option("Who answers questions, in a line.", panel=SAID, default="not stated")
    ] = None,
    license: Annotated[
        str | None,
        option(
            "Of what is published, as SPDX calls it, CC-BY-4.0 for example.",
            metavar="SPDX",
            panel=SAID,
            default="not stated",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Verify, then write what may be published, with a card: weights or images, statement, grid. Nothing private.

    Example: dpdm release runs/mnist published/mnist
    """
    require_one_process("dpdm release")
    console = Console(as_json=as_json, quiet=quiet)
    from dpdm_cli.publishing import releasing

    text = ""
    if evaluation is not None:
        try:
            text = read_bytes(evaluation).decode()
        except OSError as error:
            raise DataError(
                f"{evaluation}: cannot read the evaluation: {error.strerror or error}", _A_TEXT
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(f"{evaluation}: the evaluation is not UTF-8 text", _A_TEXT) from error
    result = releasing.release(
        source,
        out,
        evaluation=text,
        runs=runs,
        chosen_by=chosen_by,
        seen_by=seen_by,
        purpose=purpose,
        images_from=images_from,
        contact=contact,
        license=license,
        images_per_person=images_per_person,
        base_model=base_model,
    )
    console.result(
        result.to_dict(),
        lambda: pairs_table(
            {
                "released": f"{result.kind} in {result.folder}",
                "claim": f"epsilon {result.epsilon}, delta {result.delta:g}, for {result.unit}",
                "people": result.people,
                "files": f"{len(result.files):,}"
                if len(result.files) > 8
                else ", ".join(result.files),
            }
        ),
    )
