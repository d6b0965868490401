"""`dpdm classify`: what classifiers trained on synthetic images know of real ones."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpdm_cli.commands.console import Console
from dpdm_cli.commands.options import (
    DATA,
    OUTPUT,
    PRIVACY,
    TRAINING,
    DataDir,
    Device,
    Download,
    Json,
    Quiet,
)
from dpdm_cli.compute.launched import require_one_process
from dpdm_cli.files import expanded

if TYPE_CHECKING:
    import rich.table

    from dpdm_cli.evaluation.class_scores import ClassifyResult, Score


class BaselineKind(StrEnum):
    """What is trained on real images for comparison."""

    real = "real"
    dp_sgd = "dp-sgd"
    scattering = "scattering"


class Model(StrEnum):
    """Logistic regression, multilayer perceptron, convolutional network."""

    logreg = "logreg"
    mlp = "mlp"
    cnn = "cnn"


def classify(
    synth: Annotated[
        str | None,
        typer.Argument(
            metavar="SYNTH",
            help="Synthetic images in class folders: a folder, zip or .npz. "
            "May be left out with --baseline.",
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Real images: a named set, or a folder or zip with train/ and test/.  ",
            rich_help_panel=DATA,
            show_default="what the samples' metadata.json names",
        ),
    ] = None,
    data_dir: DataDir = None,
    download: Download = True,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train on that many images, drawn at random (not for a private baseline).",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ] = None,
    models: Annotated[
        list[Model] | None,
        typer.Option(
            "--model",
            help="Which classifier; may be repeated (not for scattering).",
            rich_help_panel=TRAINING,
            show_default="all three",
        ),
    ] = None,
    epochs: Annotated[
        int,
        typer.Option(min=1, help="Epochs, the best of which is taken.", rich_help_panel=TRAINING),
    ] = 50,
    seed: Annotated[
        int,
        typer.Option(
            help="Of initialisation, split, order and dropout; never of the privacy noise.",
            rich_help_panel=TRAINING,
        ),
    ] = 0,
    device: Device = "auto",
    baseline: Annotated[
        BaselineKind | None,
        typer.Option(
            help="Train on real images too: the same classifiers without privacy (real) or by "
            "DP-SGD (dp-sgd), or, privately, a linear one on wavelet scattering features.",
            rich_help_panel=TRAINING,
            show_default=False,
        ),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            "--eps",
            "--epsilon",
            help="What each classifier of a private baseline may spend.",
            rich_help_panel=PRIVACY,
            show_default="the samples' own epsilon",
        ),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(
            help="Of a private baseline.",
            rich_help_panel=PRIVACY,
            show_default="the samples' own, or 1e-5 or what lies below 1/N",
        ),
    ] = None,
    dataset_size: Annotated[
        int | None,
        typer.Option(
            "--dataset-size",
            "-n",
            min=1,
            help="Public number of real training images, for a private baseline on a folder or "
            "zip.",
            rich_help_panel=PRIVACY,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where confusion.png goes.",
            rich_help_panel=OUTPUT,
            show_default="private/ beside SYNTH",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train classifiers on synthetic images and test them on real ones.

    The epoch is chosen on held-out synthetic images; the real test images are looked at once for
    each classifier. Accuracies are facts of the real images, which no privacy claim covers.

    Example: dpdm classify samples --test mnist --baseline real
    """
    require_one_process("dpdm classify")
    console = Console(as_json=as_json, quiet=quiet)
    from dpdm_cli.evaluation import classification

    if out is None:
        out = _beside(expanded(synth).resolve()) if synth else Path("private")
    result = classification.classify(
        synth,
        test=test,
        models=tuple(model.value for model in models) if models else None,
        baseline=None if baseline is None else baseline.value,
        epsilon=epsilon,
        delta=delta,
        dataset_size=dataset_size,
        epochs=epochs,
        seed=seed,
        device=device,
        data_dir=data_dir,
        download=download,
        limit=limit,
        out=out,
        reporter=console,
    )
    console.result(result.to_dict(), lambda: _table(result))


def _beside(samples: Path) -> Path:
    """The place for private files: beside what may be published, never in it."""
    if samples.is_file() and (samples.parent / "metadata.json").is_file():
        samples = samples.parent
    return samples.parent / "private"


def _table(result: ClassifyResult) -> rich.table.Table:
    import rich.box
    import rich.table
    from rich.markup import escape

    from dpdm_cli.evaluation.class_scores import TITLES

    table = rich.table.Table(
        title=escape(f"accuracy in % on {result.test_n} real test images of {result.test}"),
        box=rich.box.SIMPLE,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("trained on")
    on_real = result.baseline.scores if result.baseline else {}
    names = list({**result.scores, **on_real})
    for name in names:
        table.add_column(TITLES[name], justify="right")
    if result.scores:
        _add_row(table, f"{result.n} synthetic images", result.scores, names)
    if (baseline := result.baseline) is not None:
        kind = "NOT PRIVATE"
        if baseline.privacy is not None:
            kind = _spent(baseline.kind, baseline.privacy)
        _add_row(table, f"{baseline.n} real images, {kind}", baseline.scores, names)
    return table


def _add_row(
    table: rich.table.Table, title: str, scores: dict[str, Score], names: list[str]
) -> None:
    shown = (f"{scores[name].accuracy:.2f}" if name in scores else "" for name in names)
    table.add_row(title, *shown)


def _spent(kind: str, privacy: dict[str, Any]) -> str:
    from dpdm_cli.privacy.accounting.claims import round_up

    epsilon = round_up(privacy["epsilon"], 2)
    how, whose = ("DP-SGD", " for each classifier") if kind == "dp-sgd" else (kind, "")
    return f"{how}, epsilon {epsilon} and delta {privacy['delta']:g}{whose}"
