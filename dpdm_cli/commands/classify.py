"""`dpdm classify`: how well classifiers trained on synthetic images recognise real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpdm_cli import choices
from dpdm_cli.commands.console import Console
from dpdm_cli.commands.options import (
    DATA,
    EPSILON,
    OUT,
    PRIVACY,
    TRAINING,
    DataDir,
    DatasetSize,
    Device,
    Download,
    Json,
    Quiet,
    option,
)
from dpdm_cli.compute.launched import require_one_process
from dpdm_cli.files import expanded

if TYPE_CHECKING:
    import rich.table

    from dpdm_cli.evaluation.class_scores import ClassifyResult, Score, Spent


_MOST_CLASSES = 20  # whose recalls are shown


def classify(
    synth: Annotated[
        str | None,
        typer.Argument(
            metavar="SYNTH",
            help="Synthetic images in class folders: a folder, zip, .npz or .parquet. "
            "May be left out with --baseline.",
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        str | None,
        option(
            "Real images: a named set, a folder or zip with train/ and test/, or what `dpdm prepare` held out.",
            metavar="DATA",
            default="what the samples' metadata.json names",
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        option(
            "logreg, mlp or cnn; may be repeated (not for scattering).",
            "--model",
            default="all three",
        ),
    ] = None,
    baseline: Annotated[
        choices.BaselineKind | None,
        option(
            "Train on real images too: the same classifiers without privacy (real) or by "
            "DP-SGD (dp-sgd), or, privately, a linear one on wavelet scattering features.",
            default="none",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "Where confusion.png goes.", *OUT, metavar="FOLDER", default="private/ beside SYNTH"
        ),
    ] = None,
    epsilon: Annotated[
        float | None,
        option(
            "What each classifier of a private baseline may spend.",
            *EPSILON,
            panel=PRIVACY,
            default="the samples' own",
        ),
    ] = None,
    delta: Annotated[
        float | None,
        option(
            "Of a private baseline.",
            panel=PRIVACY,
            default="the samples' own, or 1e-5 or what lies below 1/N",
        ),
    ] = None,
    dataset_size: DatasetSize = None,
    data_dir: DataDir = None,
    download: Download = True,
    limit: Annotated[
        int | None,
        option(
            "Train on that many images, drawn at random (not for a private baseline).",
            min=1,
            panel=DATA,
            default="all",
        ),
    ] = None,
    epochs: Annotated[
        int, option("Epochs, the best of which is taken.", min=1, panel=TRAINING)
    ] = 50,
    seed: Annotated[
        int,
        option(
            "Of initialisation, split, order and dropout; never of the privacy noise.",
            panel=TRAINING,
        ),
    ] = 0,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train classifiers on synthetic images and test them on real ones.

    The epoch is chosen on held-out synthetic images; the real test images are used once for
    each classifier. Accuracies depend on the real images and are not covered by any privacy claim.

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
        models=models,
        baseline=baseline,
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
        _add_rows(table, f"{result.n} synthetic images", result, result.scores, names)
    if (baseline := result.baseline) is not None:
        kind = "NOT PRIVATE"
        if baseline.privacy is not None:
            kind = _spent(baseline.kind, baseline.privacy)
        _add_rows(table, f"{baseline.n} real images, {kind}", result, baseline.scores, names)
    majority = result.majority
    table.add_row(
        f"always {escape(majority.name)}, the most frequent",
        *(f"{majority.share:.2f}" for _ in names),
    )
    table.add_row("  balanced", *(f"{majority.balanced_accuracy:.2f}" for _ in names))
    return table


def _add_rows(
    table: rich.table.Table,
    title: str,
    result: ClassifyResult,
    scores: dict[str, Score],
    names: list[str],
) -> None:
    """Accuracy, balanced accuracy, and the recall of each class; of many classes of the worst ones."""
    from rich.markup import escape

    def add(what: str, value: Callable[[Score], float | None], end: bool = False) -> None:
        values = [value(scores[name]) if name in scores else None for name in names]
        shown = ("" if found is None else f"{found:.2f}" for found in values)
        table.add_row(what, *shown, end_section=end)

    def worst(label: int) -> float:
        return min(score.recalls[label] or 0.0 for score in scores.values())

    tested = [label for label, count in enumerate(result.test_counts) if count]
    listed = sorted(sorted(tested, key=worst)[:_MOST_CLASSES])
    add(title, lambda score: score.accuracy)
    add("  balanced", lambda score: score.balanced_accuracy)
    for label in listed:
        count = result.test_counts[label]
        add(
            f"  recall of {escape(result.classes[label])} ({count:,})",
            lambda score, label=label: score.recalls[label],  # type: ignore[misc]
        )
    if len(listed) < len(tested):
        table.add_row(f"  the {len(listed)} least recognised of {len(tested)} classes")
    table.add_section()


def _spent(kind: str, privacy: Spent) -> str:
    from dpdm_cli.privacy.accounting.claims import round_up

    epsilon = round_up(privacy.claim.epsilon, 2)
    how, whose = ("DP-SGD", " for each classifier") if kind == "dp-sgd" else (kind, "")
    return f"{how}, epsilon {epsilon} and delta {privacy.plan.delta:g}{whose}"
