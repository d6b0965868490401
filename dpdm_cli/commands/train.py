"""`dpdm train`: from images to a model that may be published."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dpdm_cli.commands.console import Console, pairs_table
from dpdm_cli.commands.options import (
    MODEL,
    OUTPUT,
    PRIVACY,
    TRAINING,
    Channels,
    Classes,
    DataDir,
    Device,
    Download,
    ImageSize,
    Init,
    Json,
    Precision,
    Preset,
    PublicMetadata,
    Quiet,
    SettingsFor,
    Verbose,
    WarmStart,
)


class DenoiserKind(StrEnum):
    edm = "edm"
    v = "v"
    vp = "vp"
    ve = "ve"


def train(
    data: Annotated[
        str,
        typer.Argument(
            help="digits, mnist, fashion-mnist, cifar10, celeba, or a folder (one subfolder a class, or flat), "
            "zip or npz of images, or a file of `dpdm prepare`.",
            show_default=False,
        ),
    ],
    epsilon: Annotated[
        float | None,
        typer.Option(
            "--epsilon", "--eps", help="Target epsilon. (default: 10)", rich_help_panel=PRIVACY
        ),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(
            help="Target delta, below 1/N. (default: the preset's)", rich_help_panel=PRIVACY
        ),
    ] = None,
    clip_norm: Annotated[
        float | None,
        typer.Option(
            "--clip-norm",
            "-C",
            help="Largest norm of one image's gradient.",
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    noise_multiplicity: Annotated[
        int | None,
        typer.Option(
            "--noise-multiplicity",
            "-K",
            help="Noisy copies of an image a step.",
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", "-B", help="Expected images a step.", rich_help_panel=PRIVACY),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Length in passes over N images.", rich_help_panel=PRIVACY)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Length in steps.", rich_help_panel=PRIVACY)
    ] = None,
    dataset_size: Annotated[
        int | None,
        typer.Option(
            "--dataset-size",
            "-n",
            help="N as the public may know it. (default: the named set's)",
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    public_metadata: PublicMetadata = False,
    accountant: Annotated[
        str | None, typer.Option(help="prv, rdp or pld. (default: prv)", rich_help_panel=PRIVACY)
    ] = None,
    warm_start: Annotated[
        WarmStart | None,
        typer.Option(
            help="Release noisy class means, or means and covariances (moments), and start from them. "
            "(default: the preset's)",
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    warm_share: Annotated[
        float | None,
        typer.Option(
            help="Share of the budget for the warm start. (default: the preset's)",
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="Run a plan saved by `dpdm calibrate --out`, unchanged.", rich_help_panel=PRIVACY
        ),
    ] = None,
    non_private: Annotated[
        bool,
        typer.Option("--non-private", help="No clip, no noise, no claim.", rich_help_panel=PRIVACY),
    ] = False,
    data_dir: DataDir = None,
    download: Download = True,
    image_size: ImageSize = None,
    channels: Channels = None,
    classes: Classes = None,
    preset: Annotated[
        Preset | None,
        typer.Option(
            help="small: half an hour on two CPU cores. paper: as published. (default: small on a CPU, else paper)",
            rich_help_panel=MODEL,
        ),
    ] = None,
    settings_for: SettingsFor = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file of settings; flags override it.", rich_help_panel=MODEL),
    ] = None,
    init: Annotated[
        Init | None,
        typer.Option(
            help="procedural: start from a network of this package that was trained on images drawn by a program. "
            "It needs a warm start. (default: the preset's)",
            rich_help_panel=MODEL,
        ),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            help="Start from the weights of a model trained with --non-private on images that you declare public.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    denoiser: Annotated[
        DenoiserKind | None,
        typer.Option(help="Parameterisation of the network.", rich_help_panel=MODEL),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", "--lr", help="Of Adam.", rich_help_panel=TRAINING),
    ] = None,
    ema: Annotated[
        float | None, typer.Option(help="Decay of the averaged weights.", rich_help_panel=TRAINING)
    ] = None,
    label_dropout: Annotated[
        float | None,
        typer.Option(help="Probability of training without the label.", rich_help_panel=TRAINING),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of the initial weights; never of masks or noise.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        Precision | None,
        typer.Option(help="Of forward and backward passes.", rich_help_panel=TRAINING),
    ] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option(
            help="Images at a time; speed and memory only. (default: chosen)",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Run folder. (default: runs/DATA)", rich_help_panel=OUTPUT
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out.", rich_help_panel=OUTPUT)
    ] = False,
    log_losses: Annotated[
        bool,
        typer.Option(
            "--log-losses",
            help="Write the (private) loss to private/losses.jsonl.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show settings, their origins and the claim; train nothing.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a diffusion model on private images, under (epsilon, delta)-differential privacy.

    For images of your own, what the claim takes as public is stated by --dataset-size, --classes, --image-size and
    --channels, or declared by --public-metadata.

    Example: dpdm train mnist --eps 10 --out runs/mnist
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    settings: dict[str, Any] = {
        "epsilon": epsilon,
        "delta": delta,
        "clip_norm": clip_norm,
        "noise_multiplicity": noise_multiplicity,
        "batch_size": batch_size,
        "epochs": epochs,
        "steps": steps,
        "dataset_size": dataset_size,
        "accountant": accountant,
        "warm_start": warm_start and str(warm_start),
        "warm_share": warm_share,
        "init": init and str(init),
        "image_size": image_size,
        "denoiser": denoiser and str(denoiser),
        "learning_rate": learning_rate,
        "ema": ema,
        "label_dropout": label_dropout,
        "seed": seed,
        "precision": precision and str(precision),
        "micro_batch": micro_batch,
    }
    source: dict[str, Any] = {
        "data_dir": data_dir,
        "download": download,
        "channels": channels,
        "classes": classes.split(",") if classes else None,
        "public_metadata": public_metadata,
    }
    from dpdm_cli.training import dry_run as forecasting
    from dpdm_cli.training.run import train as run

    chosen: dict[str, Any] = {
        "preset": preset and str(preset),
        "settings_for": settings_for,
        "config": config,
        "plan": plan,
        "device": device,
    }
    if dry_run:
        forecast = forecasting.forecast(
            data, private=not non_private, init_from=init_from, **chosen, **source, **settings
        )
        console.result(forecast.to_dict(), lambda: _forecast_table(forecast.to_dict()))
        return
    if preset is None and not resume and not console.quiet:
        remark = forecasting.preset_remark(
            data,
            device,
            settings_for=settings_for,
            config=config,
            plan=plan,
            private=not non_private,
            flags=settings,
        )
        if remark:
            console.note(remark)
    result = run(
        data,
        out or Path("runs") / Path(data).stem,
        private=not non_private,
        resume=resume,
        init_from=init_from,
        log_losses=log_losses,
        reporter=console,
        **chosen,
        **source,
        **settings,
    )
    values = {
        "out": str(result.folder),
        "model": str(result.model),
        "parameters": result.parameters,
        "seconds": round(result.seconds, 1),
        "private": result.statement.private,
        "epsilon": result.statement.epsilon,
        "delta": result.statement.delta,
        "statement": result.statement.text,
    }
    console.result(values, lambda: pairs_table(values))


def _forecast_table(forecast: dict[str, Any]) -> Any:
    from rich.console import Group

    settings = {
        name: f"{entry['value']}   ({entry['from']})"
        for name, entry in forecast["settings"].items()
    }
    return Group(
        pairs_table(settings, title="Settings"),
        pairs_table(_privacy_rows(forecast["privacy"]), title="Privacy"),
        pairs_table(forecast["network"], title="Network"),
    )


def _privacy_rows(privacy: dict[str, Any]) -> dict[str, Any]:
    """For people: nothing that says nothing, and figures of the claim rounded up."""
    from dpdm_cli.privacy.accounting.claims import round_up
    from dpdm_cli.privacy.public_inputs import PublicInputs

    rows = {name: value for name, value in privacy.items() if value not in (None, "")}
    if "public_inputs" in rows:
        rows["public_inputs"] = PublicInputs.from_dict(rows["public_inputs"]).words
    if "epsilon_by" in rows:
        rows["epsilon"] = f"{round_up(rows['epsilon'], 4):.4f}"
        rows["epsilon_by"] = ", ".join(
            f"{round_up(value, 4):.4f} by {name.upper()}"
            for name, value in rows["epsilon_by"].items()
        )
    return rows
