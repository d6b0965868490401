"""`dpdm sample`: synthetic images from a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpdm_cli import choices
from dpdm_cli.commands.console import Console, pairs_table
from dpdm_cli.commands.options import OUT, OUTPUT, TRAINING, Device, Json, Quiet, listed, option

if TYPE_CHECKING:
    import rich.table

    from dpdm_cli.sampling.run import SampleResult

SAMPLING = "Sampling"


def sample(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CKPT", help="A model.safetensors, or the folder of a run.", show_default=False
        ),
    ],
    count: Annotated[int, option("How many images.", "--count", "-n")],
    out: Annotated[
        Path | None,
        option(
            "Folder for the images; the same command goes on there, and one with a larger -n extends what it holds.",
            *OUT,
            default="synth beside CKPT, of a shard synth-3-of-16",
        ),
    ] = None,
    format: Annotated[
        choices.ImageFormat,
        option(
            "png: one folder per class, below train/. npz, zip, parquet: samples.npz, samples.zip, samples.parquet."
        ),
    ] = "png",
    labels: Annotated[
        list[str] | None,
        option("Classes to draw, by name or index, with commas; drawn in turn.", default="all"),
    ] = None,
    proportions: Annotated[
        str | None,
        option(
            "Shares of the classes, in their order, 0.7,0.3, or by name, healthy=0.7,ill=0.3. They are public: "
            "published with the images.",
            default="equal",
        ),
    ] = None,
    seed: Annotated[
        int,
        option(
            "Image i depends on the seed, i, its class, the batch size and the kind of device alone."
        ),
    ] = 0,
    goal: Annotated[
        choices.Purpose | None,
        option(
            "Take the paper's sampler for the best FID or classifier accuracy on this data set and epsilon.",
            "--for",
            panel=SAMPLING,
            default="neither",
        ),
    ] = None,
    sampler: Annotated[
        choices.SamplerName | None,
        option("How noise becomes an image.", panel=SAMPLING, default="heun"),
    ] = None,
    steps: Annotated[
        int | None,
        option(
            "Noise levels; heun evaluates the network twice at each.",
            panel=SAMPLING,
            default="30 for heun, else 50; 12 and 25 for a model with a warm start",
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        option(
            "Weight of classifier-free guidance; doubles the work.", panel=SAMPLING, default="0"
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        option(
            "How much images of a class vary: its covariance, in units of what was measured. Above 1 classifiers "
            "learn more from the images, and these are less faithful; for a model with a warm start.",
            panel=SAMPLING,
            default="1",
        ),
    ] = None,
    deformation: Annotated[
        float | None,
        option(
            "Bend, turn, scale and shift each image a little, by up to this amplitude, such as 0.7. Classifiers "
            "learn much more from the images.",
            panel=SAMPLING,
            default="0",
        ),
    ] = None,
    churn: Annotated[
        float | None,
        option("Noise added back (S_churn); euler and heun.", panel=SAMPLING, default="0"),
    ] = None,
    s_min: Annotated[
        float | None, option("Lowest noise level of churn.", panel=SAMPLING, default="0")
    ] = None,
    s_max: Annotated[
        float | None, option("Highest noise level of churn.", panel=SAMPLING, default="no limit")
    ] = None,
    s_noise: Annotated[
        float | None, option("Scale of the noise that churn adds.", panel=SAMPLING, default="1")
    ] = None,
    device: Device = "auto",
    batch_size: Annotated[
        int | None,
        option(
            "Images at a time; another number changes images by rounding.",
            "--batch-size",
            "-B",
            panel=TRAINING,
            default="64, on CUDA 1000",
        ),
    ] = None,
    mark: Annotated[
        bool,
        option(
            "Say in each PNG file that a model made it, for machines (IPTC DigitalSourceType, as XMP; some 500 bytes).",
            "--mark/--no-mark",
            panel=OUTPUT,
        ),
    ] = True,
    shard: Annotated[
        str | None,
        option(
            "Draw the I-th of N parts, 3/16 for example, into a folder of its own. Without it, the same command "
            "makes folders that were copied together a whole set.",
            metavar="I/N",
            panel=OUTPUT,
            default="the whole set",
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
    from dpdm_cli.sampling.proportions import parse_proportions
    from dpdm_cli.sampling.shards import Shard

    part = None if shard is None else Shard.parse(shard)
    result = sampling.sample(
        checkpoint,
        out,
        n=count,
        purpose=goal,
        sampler=sampler,
        steps=steps,
        guidance=guidance,
        temperature=temperature,
        deformation=deformation,
        churn=churn,
        s_min=s_min,
        s_max=s_max,
        s_noise=s_noise,
        labels=listed(",".join(labels or ())),
        proportions=None if proportions is None else parse_proportions(proportions),
        seed=seed,
        batch_size=batch_size,
        format=format,
        mark=mark,
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
        "picture": result.folder / "grid.png",
    }
    return pairs_table(values)
