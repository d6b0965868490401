"""`dpdm report`: one page about a model and what was drawn from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpdm_cli.commands.console import Console, pairs_table
from dpdm_cli.commands.options import (
    DATA,
    OUT,
    TRAINING,
    DataDir,
    Device,
    Download,
    Json,
    Quiet,
    option,
)
from dpdm_cli.compute.launched import require_one_process


def report(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|CKPT|SYNTH",
            help="A finished run or release, a model, or a set of samples.",
            show_default=False,
        ),
    ],
    samples: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SYNTH...", help="Sets of samples drawn from it.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "The page, a new file.",
            *OUT,
            metavar="FILE",
            default="report.html; private/report.html of the run with --private",
        ),
    ] = None,
    private: Annotated[
        bool,
        option(
            "Also scores on real images: accuracies, distances, nearest real images. Goes to private/, and is not to "
            "be published.",
            "--private",
        ),
    ] = False,
    against: Annotated[
        str | None,
        option(
            "Real images for --private: a named set, or a folder or zip with train/ and test/.",
            metavar="DATA",
            panel=DATA,
            default="the named set it was trained on",
        ),
    ] = None,
    data_dir: DataDir = None,
    download: Download = True,
    models: Annotated[
        list[str] | None,
        option(
            "logreg, mlp or cnn, for --private; may be repeated.",
            "--model",
            panel=TRAINING,
            default="all three",
        ),
    ] = None,
    epochs: Annotated[
        int, option("Epochs of each classifier, for --private.", min=1, panel=TRAINING)
    ] = 50,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one HTML page: the claim in words, risk, budget, images of each class, what was checked, how to load it.

    Everything is verified first. The page needs no network and no script, prints well, and may be published.

    Example: dpdm report runs/mnist runs/mnist/synth --out report.html
    """
    require_one_process("dpdm report")
    console = Console(as_json=as_json, quiet=quiet)
    from dpdm_cli.reporting.run import report as write_report

    result = write_report(
        run,
        samples or (),
        out=out,
        private=private,
        against=against,
        models=models,
        epochs=epochs,
        data_dir=data_dir,
        download=download,
        device=device,
        reporter=console,
    )
    console.result(
        result.to_dict(),
        lambda: pairs_table(
            {
                "report": f"{result.file}, {result.size:,} bytes",
                "may be published": "no" if result.is_private else "yes",
                "claim": f"epsilon {result.epsilon:g}, delta {result.delta:g}",
                "attacker's accuracy": f"at most {100 * result.attack_risk.guess:.2f} %, at even odds",
            }
        ),
    )
