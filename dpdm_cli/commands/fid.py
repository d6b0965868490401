"""`dpdm fid`: the Fréchet distance between synthetic and real images."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpdm_cli.commands.console import Console
from dpdm_cli.commands.options import DATA, MODEL, TRAINING, DataDir, Device, Download, Json, Quiet

if TYPE_CHECKING:
    import rich.table

    from dpdm_cli.evaluation.fid_scores import FidResult


class Split(StrEnum):
    """Which part of the reference is compared."""

    both = "both"
    train = "train"
    test = "test"


class Resize(StrEnum):
    """clean-fid's resizing modes."""

    clean = "clean"
    legacy_tensorflow = "legacy_tensorflow"


def fid(
    synth: Annotated[
        str,
        typer.Argument(
            metavar="SYNTH", help="Synthetic images: a folder, zip or .npz.", show_default=False
        ),
    ],
    against: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="Real images: digits, mnist, fashion-mnist, cifar10, celeba, folder, zip or .npz.",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ],
    split: Annotated[
        Split, typer.Option(help="Which split of DATA; both when it has two.", rich_help_panel=DATA)
    ] = Split.both,
    data_dir: DataDir = None,
    download: Download = True,
    extractor: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="inception, scattering or pixels (need no weights), or a TorchScript file taking float "
            "[B,3,H,W] in 0..255; loading a file runs the code in it.",
            rich_help_panel=MODEL,
        ),
    ] = "inception",
    inception_weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TorchScript file of Inception; loading one of your own runs the code in it.",
            rich_help_panel=MODEL,
            show_default="the published one, fetched once",
        ),
    ] = None,
    resize: Annotated[
        Resize,
        typer.Option(
            help="How Inception's input is resized. Distances compare within one mode only; DPDM's published ones are "
            "by legacy_tensorflow.",
            rich_help_panel=MODEL,
        ),
    ] = Resize.clean,
    kid: Annotated[
        bool,
        typer.Option(
            "--kid",
            help="The kernel distance of the same features too (KID), unbiased for however few images.",
            rich_help_panel=MODEL,
        ),
    ] = False,
    precision_recall: Annotated[
        bool,
        typer.Option(
            "--precision-recall",
            help="Precision and recall of the same features too, with density and coverage: whether samples look real, "
            "and how much of the real images they reach.",
            rich_help_panel=MODEL,
        ),
    ] = False,
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="DPDM_CACHE_DIR",
            help="Where weights and reference statistics are kept; those of your own images only when this is given.",
            rich_help_panel=DATA,
            show_default="the user's cache",
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--cache/--no-cache", help="Keep reference statistics.", rich_help_panel=DATA),
    ] = True,
    device: Device = "auto",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images at a time.", rich_help_panel=TRAINING)
    ] = 64,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how far synthetic images are from real ones (FID; lower is closer).

    The figure is computed from the real images and is not covered by any privacy claim.

    Example: dpdm fid samples --against mnist
    """
    console = Console(as_json=as_json, quiet=quiet)
    from dpdm_cli.evaluation import scoring

    result = scoring.fid(
        synth,
        against,
        split=split.value,
        extractor=extractor,
        weights=inception_weights,
        resize=resize.value,
        kid=kid,
        precision_recall=precision_recall,
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
    if kid := [score.kid for score in scores if score.kid]:
        table.add_row(kernel, *(f"{each.mean:.3g} ± {each.std:.1g}" for each in kid))
        table.add_row("  over subsets", *(f"{each.subsets} x {each.subset_size}" for each in kid))
    if found := [score.manifolds for score in scores if score.manifolds]:
        for name in ("precision", "recall", "density", "coverage"):
            table.add_row(name, *(f"{getattr(each, name):.3f}" for each in found))
        table.add_row("  images on each side", *(str(each.n) for each in found))
    return table
