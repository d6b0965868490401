"""`dpdm fid`: the Fréchet distance between synthetic and real images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpdm_cli import choices
from dpdm_cli.commands.console import Console
from dpdm_cli.commands.options import DATA, TRAINING, DataDir, Device, Download, Json, Quiet, option

if TYPE_CHECKING:
    import rich.table

    from dpdm_cli.evaluation.fid_scores import FidResult, Yardstick


def fid(
    synth: Annotated[
        str,
        typer.Argument(
            metavar="SYNTH",
            help="Synthetic images: a folder, zip, .npz or .parquet.",
            show_default=False,
        ),
    ],
    against: Annotated[
        str,
        option(
            "Real images: digits, mnist, fashion-mnist, cifar10, celeba, folder, zip or .npz.",
            metavar="DATA",
        ),
    ],
    split: Annotated[
        choices.Reference, option("Which split of DATA; both when it has two.")
    ] = "both",
    extractor: Annotated[
        str,
        option(
            "inception, scattering or pixels (need no weights), or a TorchScript file taking float "
            "[B,3,H,W] in 0..255: this executes the code in FILE.",
            metavar="NAME|FILE",
        ),
    ] = "inception",
    kid: Annotated[
        bool,
        option(
            "The kernel distance of the same features too (KID), unbiased for however few images.",
            "--kid",
        ),
    ] = False,
    precision_recall: Annotated[
        bool,
        option(
            "Precision and recall of the same features too, with density and coverage: whether samples look real, "
            "and how much of the real images they reach.",
            "--precision-recall",
        ),
    ] = False,
    by_class: Annotated[
        bool, option("The distance of each class too, to its own real images.", "--by-class")
    ] = False,
    inception_weights: Annotated[
        Path | None,
        option(
            "Where the published weights of Inception are. Only that file is loaded, known by its SHA-256; "
            "no other is executed.",
            metavar="FILE",
            default="fetched once",
        ),
    ] = None,
    resize: Annotated[
        choices.Resize,
        option(
            "How Inception's input is resized. Distances compare within one mode only; DPDM's published ones are "
            "by legacy_tensorflow."
        ),
    ] = "clean",
    data_dir: DataDir = None,
    download: Download = True,
    cache_dir: Annotated[
        Path | None,
        option(
            "Where weights and reference statistics are kept; those of your own images only when this is given.",
            envvar="DPDM_CACHE_DIR",
            panel=DATA,
            default="the user's cache",
        ),
    ] = None,
    keep: Annotated[
        bool,
        option("Keep reference statistics.", "--cache/--no-cache", panel=DATA),
    ] = True,
    device: Device = "auto",
    batch_size: Annotated[
        int, option("Images at a time.", "--batch-size", "-B", min=1, panel=TRAINING)
    ] = 64,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how far synthetic images are from real ones (FID; lower is closer).

    Below it stands how far random halves of the real images are from each other, the least to be hoped for.

    The figure is computed from the real images and is not covered by any privacy claim.

    Example: dpdm fid samples --against mnist
    """
    console = Console(as_json=as_json, quiet=quiet)
    from dpdm_cli.evaluation import scoring

    result = scoring.fid(
        synth,
        against,
        split=split,
        extractor=extractor,
        weights=inception_weights,
        resize=resize,
        kid=kid,
        precision_recall=precision_recall,
        by_class=by_class,
        data_dir=data_dir,
        download=download,
        device=device,
        batch_size=batch_size,
        cache_dir=cache_dir,
        keep=keep,
        reporter=console,
    )
    console.result(result.to_dict(), lambda: _table(result, synth))


def _table(result: FidResult, synth: str) -> rich.table.Table:
    import rich.box
    import rich.table
    from rich.markup import escape

    published = result.extractor == "inception"
    measure, kernel = ("FID", "KID") if published else ("Fréchet distance", "kernel distance")
    table = rich.table.Table(
        title=escape(f"{measure}: {synth} ({result.n} images) against {result.against}"),
        caption=escape(
            f"features: {result.extractor} {result.extractor_digest[:12]}, resize {result.resize}"
        ),
        box=rich.box.SIMPLE,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column()
    for split in result.scores:
        table.add_column(split, justify="right")
    scores = result.scores.values()
    table.add_row("images", *(str(score.n) for score in scores))
    table.add_row(measure, *(f"{score.fid:.4g}" for score in scores))
    if any(score.yardstick for score in scores):
        table.add_row("  of real from real", *(_apart(score.yardstick) for score in scores))
        sizes = (f"{score.yardstick.n}" if score.yardstick else "" for score in scores)
        table.add_row("    images in each part", *sizes)
    for name in dict.fromkeys(name for score in scores for name in score.classes):
        of_class = [score.classes.get(name) for score in scores]
        table.add_row(
            f"{measure} of {escape(name)}",
            *(f"{each.fid:.4g}" if each else "" for each in of_class),
        )
        table.add_row(
            "  of real from real", *(_apart(each.yardstick) if each else "" for each in of_class)
        )
    if kid := [score.kid for score in scores if score.kid]:
        table.add_row(kernel, *(f"{each.mean:.3g} ± {each.std:.1g}" for each in kid))
        table.add_row("  over subsets", *(f"{each.subsets} x {each.subset_size}" for each in kid))
    if found := [score.manifolds for score in scores if score.manifolds]:
        for name in ("precision", "recall", "density", "coverage"):
            table.add_row(name, *(f"{getattr(each, name):.3f}" for each in found))
        table.add_row("  images on each side", *(str(each.n) for each in found))
    return table


def _apart(yardstick: Yardstick | None) -> str:
    return f"{yardstick.fid:.4g}" if yardstick else ""
