"""`dpdm sample`: synthetic images from a model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpdm_cli.commands.console import Console, pairs_table
from dpdm_cli.commands.options import MODEL, OUTPUT, TRAINING, Device, Json, Quiet

if TYPE_CHECKING:
    import rich.table

    from dpdm_cli.sampling.run import SampleResult

SAMPLING = "Sampling"


class SamplerKind(StrEnum):
    """How noise becomes an image."""

    ddim = "ddim"
    stochastic_ddim = "stochastic-ddim"
    euler = "euler"
    heun = "heun"


class Goal(StrEnum):
    """What the paper chose its samplers for."""

    fid = "fid"
    accuracy = "accuracy"


class ImageFormat(StrEnum):
    """How images are stored."""

    png = "png"
    npz = "npz"
    zip = "zip"


def sample(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CKPT", help="A model.safetensors, or the folder of a run.", show_default=False
        ),
    ],
    count: Annotated[
        int,
        typer.Option(
            "--count", "-n", help="How many images.", rich_help_panel=OUTPUT, show_default=False
        ),
    ],
    labels: Annotated[
        list[str] | None,
        typer.Option(
            help="Classes to draw, by name or index, with commas; drawn in turn. (default: all)",
            rich_help_panel=MODEL,
        ),
    ] = None,
    goal: Annotated[
        Goal | None,
        typer.Option(
            "--for",
            help="Take the paper's sampler for the best FID or classifier accuracy on this data set and epsilon.",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    sampler: Annotated[
        SamplerKind | None,
        typer.Option(help="How noise becomes an image. (default: heun)", rich_help_panel=SAMPLING),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Noise levels. (default: 30 for heun, 50 for the others, which evaluate the network once a step "
            "where heun does twice; 12 and 25 for a model with a warm start)",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="Weight of classifier-free guidance; doubles the work. (default: 0)",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="How much images of a class vary: its covariance, in units of what was measured. Above 1 classifiers "
            "learn more from the images, and these are less faithful; for a model with a warm start. (default: 1)",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    deformation: Annotated[
        float | None,
        typer.Option(
            help="Bend, turn, scale and shift each image a little, by up to this amplitude, such as 0.7. Classifiers "
            "learn much more from the images. (default: 0)",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    churn: Annotated[
        float | None,
        typer.Option(
            help="Noise added back (S_churn); euler and heun. (default: 0)",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    s_min: Annotated[
        float | None,
        typer.Option(help="Lowest noise level of churn. (default: 0)", rich_help_panel=SAMPLING),
    ] = None,
    s_max: Annotated[
        float | None,
        typer.Option(
            help="Highest noise level of churn. (default: no limit)", rich_help_panel=SAMPLING
        ),
    ] = None,
    s_noise: Annotated[
        float | None,
        typer.Option(
            help="Scale of the noise that churn adds. (default: 1)", rich_help_panel=SAMPLING
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            help="Image i depends on the seed, i, its class, the batch size and the kind of device alone.",
            rich_help_panel=SAMPLING,
        ),
    ] = 0,
    device: Device = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            "-B",
            help="Images at a time; another number changes images by rounding. (default: 64, on CUDA 1000)",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the images; the same command goes on there. "
            "(default: synth beside CKPT, of a shard synth-3-of-16)",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    format: Annotated[
        ImageFormat,
        typer.Option(
            help="png: one folder a class. npz: samples.npz. zip: samples.zip.",
            rich_help_panel=OUTPUT,
        ),
    ] = ImageFormat.png,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Draw the I-th of N parts, 3/16 for example, into a folder of its own. The same command without it "
            "makes folders that were copied together a whole set.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw synthetic images from a trained model. Costs no privacy, however many are drawn.

    Example: dpdm sample runs/mnist -n 60000
    """
    console = Console(as_json=as_json, quiet=quiet)
    from dpdm_cli.sampling import run as sampling
    from dpdm_cli.sampling.shards import Shard

    part = None if shard is None else Shard.parse(shard)

    result = sampling.sample(
        checkpoint,
        out,
        n=count,
        purpose=None if goal is None else goal.value,
        overrides={
            "sampler": sampler and sampler.value,
            "steps": steps,
            "guidance": guidance,
            "temperature": temperature,
            "deformation": deformation,
            "churn": churn,
            "s_min": s_min,
            "s_max": s_max,
            "s_noise": s_noise,
        },
        labels=[name for given in labels for name in given.split(",")] if labels else None,
        seed=seed,
        batch_size=batch_size,
        format=format.value,
        shard=None if part is None else (part.number, part.of),
        device=device,
        reporter=console,
    )
    console.result(result.to_dict(), lambda: _table(result))


def _table(result: SampleResult) -> rich.table.Table:
    metadata = result.metadata
    which = ""
    if result.shard is not None:
        which = f", shard {result.shard} of {metadata.n:,},"
    values = {
        "images": f"{result.n:,}{which} in {result.images}",
        "claim": metadata.statement.headline,
        "sampler": f"{result.sampler} ({metadata.sampler_from})",
        "seed": metadata.seed,
        "look at": result.folder / "grid.png",
    }
    return pairs_table(values)
