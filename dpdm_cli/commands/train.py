"""`dpdm train`: from images to a model that may be published."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpdm_cli import choices
from dpdm_cli.commands.console import Console, pairs_table
from dpdm_cli.commands.options import (
    EPSILON,
    MODEL,
    OF_PRESET,
    OUT,
    OUTPUT,
    PRIVACY,
    TRAINING,
    Accountant,
    BatchSize,
    Channels,
    Classes,
    ClipNorm,
    DataDir,
    DatasetSize,
    Delta,
    Device,
    Download,
    Epochs,
    FileColumn,
    ImageSize,
    Json,
    LabelColumn,
    Labels,
    Layout,
    MicroBatch,
    NoiseMultiplicity,
    PersonColumn,
    PlanFile,
    PublicMetadata,
    Quiet,
    SettingsFor,
    SkipBad,
    Steps,
    Unit,
    WarmShare,
    Window,
    interval,
    listed,
    option,
)

if TYPE_CHECKING:
    import rich.console
    import rich.table

    from dpdm_cli.training.dry_run import DryRun
    from dpdm_cli.training.forecast.forecast import Forecast
    from dpdm_cli.training.forecast.outlook import Outlook
    from dpdm_cli.training.run import TrainResult


def train(
    data: Annotated[
        str,
        typer.Argument(
            help="digits, mnist, fashion-mnist, cifar10, celeba, or a folder (one subfolder per class, or flat), "
            "zip or npz of images, or a file of `dpdm prepare`.",
            show_default=False,
        ),
    ],
    epsilon: Annotated[
        float | None, option("Epsilon of the claim, at most.", *EPSILON, default="10")
    ] = None,
    delta: Delta = None,
    preset: Annotated[
        choices.Preset | None,
        option(
            "small: half an hour on two CPU cores. paper: as published.",
            default="small on a CPU, else paper",
        ),
    ] = None,
    out: Annotated[Path | None, option("Run folder.", *OUT, default="runs/DATA")] = None,
    resume: Annotated[bool, option("Continue the run in --out.", "--resume")] = False,
    dry_run: Annotated[
        bool,
        option(
            "Show settings and their origins, the claim, and a forecast of minutes, memory and images; train nothing.",
            "--dry-run",
        ),
    ] = False,
    unit: Unit = None,
    preview: Annotated[
        int | None,
        option(
            "After every so many steps draw a grid to previews/; it costs no privacy and may be published.",
            "--preview",
            panel=OUTPUT,
            default="none",
        ),
    ] = None,
    dataset_size: DatasetSize = None,
    public_metadata: PublicMetadata = False,
    batch_size: BatchSize = None,
    epochs: Epochs = None,
    steps: Steps = None,
    clip_norm: ClipNorm = None,
    noise_multiplicity: NoiseMultiplicity = None,
    warm_start: Annotated[
        choices.WarmStart | None,
        option(
            "Release noisy class means, or means and covariances (moments), and start from them.",
            panel=PRIVACY,
            default=OF_PRESET,
        ),
    ] = None,
    warm_share: WarmShare = None,
    accountant: Accountant = None,
    plan: PlanFile = None,
    non_private: Annotated[
        bool, option("No clip, no noise, no claim.", "--non-private", panel=PRIVACY)
    ] = False,
    classes: Classes = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    labels: Labels = None,
    label_column: LabelColumn = None,
    file_column: FileColumn = None,
    person_column: PersonColumn = None,
    layout: Layout = None,
    window: Window = None,
    skip_bad: SkipBad = False,
    data_dir: DataDir = None,
    download: Download = True,
    config: Annotated[
        Path | None,
        option("TOML file of settings; flags override it.", panel=MODEL, default="none"),
    ] = None,
    settings_for: SettingsFor = None,
    init: Annotated[
        choices.Init | None,
        option(
            "procedural: start from a network of this package that was trained on images drawn by a program. "
            "It needs a warm start.",
            panel=MODEL,
            default=OF_PRESET,
        ),
    ] = None,
    init_from: Annotated[
        Path | None,
        option(
            "Start from the weights of a model trained with --non-private on images that you declare public.",
            panel=MODEL,
            default="none",
        ),
    ] = None,
    denoiser: Annotated[
        choices.Parameterisation | None,
        option("Parameterisation of the network.", panel=MODEL, default=OF_PRESET),
    ] = None,
    learning_rate: Annotated[
        float | None,
        option("Of Adam.", "--learning-rate", "--lr", panel=TRAINING, default=OF_PRESET),
    ] = None,
    ema: Annotated[
        float | None, option("Decay of the averaged weights.", panel=TRAINING, default=OF_PRESET)
    ] = None,
    label_dropout: Annotated[
        float | None,
        option("Probability of training without the label.", panel=TRAINING, default=OF_PRESET),
    ] = None,
    seed: Annotated[
        int | None,
        option("Of the initial weights; never of masks or noise.", panel=TRAINING, default="0"),
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        choices.Precision | None,
        option("Of forward and backward passes.", panel=TRAINING, default="auto"),
    ] = None,
    micro_batch: MicroBatch = None,
    log_losses: Annotated[
        bool,
        option("Write the (private) loss to private/losses.jsonl.", "--log-losses", panel=OUTPUT),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Annotated[bool, option("Print more details.", "--verbose", panel=OUTPUT)] = False,
) -> None:
    """Train a diffusion model on private images, under (epsilon, delta)-differential privacy.

    For images of your own, what the claim takes as public is stated by --dataset-size, --classes, --image-size and
    --channels, or declared by --public-metadata.

    Example: dpdm train mnist --eps 10 --out runs/mnist
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from dpdm_cli.training.dry_run import DryRun
    from dpdm_cli.training.dry_run import dry_run as show
    from dpdm_cli.training.run import train as run

    call: Callable[..., DryRun | TrainResult] = show
    if not dry_run:
        call = partial(
            run,
            out=out or Path("runs") / Path(data).stem,
            resume=resume,
            log_losses=log_losses,
        )
    result = call(
        data,
        preset=preset,
        settings_for=settings_for,
        config=config,
        plan=plan,
        private=not non_private,
        init_from=init_from,
        device=device,
        data_dir=data_dir,
        download=download,
        classes=listed(classes),
        channels=channels,
        labels=labels,
        label_column=label_column,
        file_column=file_column,
        person_column=person_column,
        layout=layout,
        window=interval(window),
        skip_bad=skip_bad,
        public_metadata=public_metadata,
        epsilon=epsilon,
        delta=delta,
        unit=unit,
        dataset_size=dataset_size,
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        clip_norm=clip_norm,
        noise_multiplicity=noise_multiplicity,
        accountant=accountant,
        warm_start=warm_start,
        warm_share=warm_share,
        init=init,
        image_size=image_size,
        denoiser=denoiser,
        learning_rate=learning_rate,
        ema=ema,
        label_dropout=label_dropout,
        seed=seed,
        precision=precision,
        micro_batch=micro_batch,
        preview=preview,
        reporter=console,
    )
    values = result.to_dict()
    console.result(
        values,
        lambda: _tables(values, result.forecast) if isinstance(result, DryRun) else _left(result),
    )


def _left(result: TrainResult) -> rich.table.Table:
    """What a finished run leaves, for people."""
    return pairs_table(
        {
            "model": result.model,
            "claim": result.statement.headline,
            "in words": result.statement.text,
            "picture": result.folder / "samples.png",
            "parameters": f"{result.parameters:,}",
            "seconds": f"{result.seconds:.1f}",
        }
    )


def _tables(spec: dict[str, Any], forecast: Forecast) -> rich.console.Group:
    from rich.console import Group
    from rich.markup import escape

    settings = {
        name: f"{entry['value']}   ({entry['from']})" for name, entry in spec["settings"].items()
    }
    return Group(
        pairs_table(settings, title="Settings"),
        pairs_table(_privacy_rows(spec["privacy"]), title="Privacy"),
        pairs_table(spec["network"], title="Network"),
        *([_measured(forecast.outlook)] if forecast.outlook else []),
        *(f"  {escape(words)}." for words in forecast.words),
    )


def _measured(outlook: Outlook) -> rich.table.Table:
    """The run among what was measured, the easiest first."""
    import rich.box
    import rich.table

    table = rich.table.Table(
        title="Forecast, beside what was measured on public sets",
        box=rich.box.SIMPLE,
        title_justify="left",
    )
    for name in ("set", "images", "size", "classes", "epsilon", "steps", "hardness", "CNN"):
        table.add_column(name, justify="left" if name == "set" else "right")
    rows = [(row.figures, row.dataset, f"{row.cnn:.1f} %") for row in outlook.rows]
    rows.append((outlook.figures, "this run", "?"))
    for figures, name, cnn in sorted(rows, key=lambda row: row[0].hardness):
        table.add_row(
            name,
            f"{figures.dataset_size:,}",
            f"{figures.side}x{figures.side} {'grey' if figures.channels == 1 else 'colour'}",
            f"{figures.classes}",
            f"{figures.epsilon:g}",
            f"{figures.steps:,}",
            f"{figures.hardness:.2g}",
            cnn,
        )
    table.caption = (
        "hardness: numbers in an image for each unit of N x epsilon, a rule of thumb. "
        "CNN: its accuracy on real test images, trained on synthetic ones"
    )
    return table


def _privacy_rows(privacy: dict[str, Any]) -> dict[str, Any]:
    """For people: nothing that says nothing, and figures of the claim rounded up."""
    from dpdm_cli.privacy.accounting.claims import round_up
    from dpdm_cli.privacy.public_inputs import PublicInputs
    from dpdm_cli.privacy.units import record_of

    rows = {name: value for name, value in privacy.items() if value not in (None, "")}
    if "public_inputs" in rows:
        public = PublicInputs.from_dict(rows["public_inputs"])
        rows["public_inputs"] = public.words_for(record_of(rows["unit"]))
    if "epsilon_by" in rows:
        rows["epsilon"] = f"{round_up(rows['epsilon'], 4):.4f}"
        rows["epsilon_by"] = ", ".join(
            f"{round_up(value, 4):.4f} by {name.upper()}"
            for name, value in rows["epsilon_by"].items()
        )
    return rows
