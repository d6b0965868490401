"""`dpdm compare`: several runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpdm_cli.commands.console import Console
from dpdm_cli.commands.options import DATA, TRAINING, DataDir, Device, Download, Json, Quiet, option
from dpdm_cli.compute.launched import require_one_process

if TYPE_CHECKING:
    import rich.console

    from dpdm_cli.reporting.comparing import Comparison


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|CKPT|SYNTH...",
            help="Run folders, model files, sets of samples.",
            show_default=False,
        ),
    ],
    plot: Annotated[
        Path | None,
        option(
            "A picture of the figures against epsilon: .png, .svg or .pdf; in private/ with --against.",
            metavar="FILE",
            default="none",
        ),
    ] = None,
    against: Annotated[
        str | None,
        option(
            "Real images, for accuracy and distance of the samples in each run's synth/: a named set, or a folder or "
            "zip with train/ and test/. No claim covers these figures.",
            metavar="DATA",
            panel=DATA,
            default="none: claims, risks and budgets alone",
        ),
    ] = None,
    data_dir: DataDir = None,
    download: Download = True,
    model: Annotated[
        str, option("The classifier, for --against: logreg, mlp or cnn.", panel=TRAINING)
    ] = "logreg",
    extractor: Annotated[
        str,
        option(
            "Features of the distance, for --against: inception, scattering, pixels or a file, as for `dpdm fid`.",
            metavar="NAME|FILE",
            panel=TRAINING,
        ),
    ] = "scattering",
    epochs: Annotated[
        int, option("Epochs of the classifier, for --against.", min=1, panel=TRAINING)
    ] = 50,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put runs beside each other: claim, risk and budget, and what all of them claim together.

    Everything is verified first.

    Example: dpdm compare runs/eps1 runs/eps10 --plot runs.png
    """
    require_one_process("dpdm compare")
    console = Console(as_json=as_json, quiet=quiet)
    from dpdm_cli.reporting import comparing

    result = comparing.compare(
        runs,
        plot=plot,
        against=against,
        model=model,
        extractor=extractor,
        epochs=epochs,
        data_dir=data_dir,
        download=download,
        device=device,
        reporter=console,
    )
    console.result(result.to_dict(), lambda: _page(result))


def _page(result: Comparison) -> rich.console.Group:
    import rich.box
    import rich.console
    import rich.table
    from rich.markup import escape

    from dpdm_cli.privacy.accounting.claims import round_up

    table = rich.table.Table(
        caption="guess: an attacker's accuracy at even odds, at most; TPR: found out at 1 % false alarms, at most; "
        "warm start: its share of the budget",
        box=rich.box.SIMPLE,
        caption_justify="left",
    )
    table.add_column("run", overflow="fold")
    for title in ("epsilon", "delta", "guess", "TPR", "warm start"):
        table.add_column(title, justify="right")
    is_scored = result.against is not None
    for title in ("accuracy", "balanced", "distance", "images") if is_scored else ():
        table.add_column(title, justify="right")
    for run in result.runs:
        scores = run.scores
        rates = dict(run.risk.true_positive_rates)
        table.add_row(
            escape(str(run.path)),
            f"{run.statement.epsilon:g}",
            f"{run.statement.delta:g}",
            f"{100 * run.risk.guess:.2f} %",
            f"{100 * rates[0.01]:.2f} %",
            f"{round(100 * sum(part.share for part in run.budget[:-1]))} %",
            *(
                (
                    f"{scores.accuracy:.2f} %",
                    f"{scores.balanced:.2f} %",
                    f"{scores.distance:.4g}",
                    f"{scores.n:,}",
                )
                if scores
                else ()
            ),
        )
    lines: list[str] = []
    if is_scored:
        lines.append(
            escape(
                f"Accuracy and distance: {result.model} and {result.extractor} features, on {result.against}; computed "
                "from real images, and not covered by any claim."
            )
        )
    lines += [escape(line) + "." for line in result.relations]
    if result.together is not None and result.risk is not None:
        lines.append(
            f"[bold]All of them published, if trained on the same images:[/] epsilon "
            f"{round_up(result.together.epsilon, 4):.4f} at delta {result.together.delta:g} "
            f"(by {result.together.accountant.upper()}); a guess at even odds is right at most "
            f"{100 * result.risk.guess:.2f} % of the time."
        )
    if result.plot is not None:
        lines.append(escape(f"picture: {result.plot}"))
    return rich.console.Group(table, *lines)
