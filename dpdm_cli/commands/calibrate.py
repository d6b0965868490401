"""`dpdm calibrate`: how much noise a claim needs, or what a noise is worth."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import rich.console
import typer
from rich.markup import escape

from dpdm_cli.commands.console import Console, pairs_table
from dpdm_cli.commands.options import (
    DATA,
    OUTPUT,
    PRIVACY,
    TRAINING,
    Json,
    PublicMetadata,
    Quiet,
    WarmStart,
)
from dpdm_cli.compute.launched import require_one_process
from dpdm_cli.errors import UsageError

if TYPE_CHECKING:
    from dpdm_cli.privacy.accounting.claims import Claim
    from dpdm_cli.privacy.plan import PrivacyPlan

DEFAULT_DATASET = "mnist"
DEFAULT_MULTIPLICITY = 32


class Profile(StrEnum):
    """How q and sigma are chosen."""

    exact = "exact"
    paper = "paper"


def calibrate(
    data: Annotated[
        str | None,
        typer.Argument(
            help="A named set; or a folder, zip, npz or prepared file, whose images are counted if N is not stated.",
            show_default=False,
        ),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            "--eps",
            "--epsilon",
            "-e",
            help="The epsilon to stay within: find sigma.",
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(
            help="The other way round: what this noise multiplier claims.",
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(
            help="Delta, below 1/N. (default: the data set's)",
            show_default=False,
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    accountant: Annotated[
        str | None,
        typer.Option(
            help="Who makes the claim: prv, rdp or pld. (default: prv)",
            show_default=False,
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    profile: Annotated[
        Profile,
        typer.Option(
            help="exact: q = B/N and the least noise. paper: q = 1/ceil(N/B), RDP with orders to "
            "127 and a tolerance of 0.01, as in the paper's tables.",
            rich_help_panel=PRIVACY,
        ),
    ] = Profile.exact,
    clip_norm: Annotated[
        float | None,
        typer.Option(
            help="Clip norm C; the claim does not depend on it. (default: 1)",
            show_default=False,
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    noise_multiplicity: Annotated[
        int | None,
        typer.Option(
            help="K, noisy copies of each image; they cost nothing. (default: the data set's)",
            show_default=False,
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    warm_start: Annotated[
        WarmStart,
        typer.Option(
            help="Pay also for noisy class means, or means and covariances (moments), before the first step.",
            rich_help_panel=PRIVACY,
        ),
    ] = WarmStart.none,
    warm_share: Annotated[
        float | None,
        typer.Option(
            help="Share of the budget for the warm start. (default: 0.1)",
            show_default=False,
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Take the plan of a known data set: digits, mnist, fashion-mnist, cifar10, celeba, "
            "celeba64 or imagenet32. (default: mnist, unless -n is given)",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    settings_for: Annotated[
        str | None,
        typer.Option(
            metavar="SET",
            help="Take the paper's batch size, epochs, delta, C and K for this data set, with N from -n or --dataset.",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    dataset_size: Annotated[
        int | None,
        typer.Option(
            "--dataset-size",
            "-n",
            help="N, the public number of images.",
            rich_help_panel=DATA,
        ),
    ] = None,
    public_metadata: PublicMetadata = False,
    batch_size: Annotated[
        float | None,
        typer.Option(
            "--batch-size",
            "-b",
            help="B, the expected number of images in a step.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the data: epochs * N / B steps.", rich_help_panel=TRAINING),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Noisy steps.", rich_help_panel=TRAINING)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the plan to this file, for `dpdm train --plan`.", rich_help_panel=OUTPUT
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the noise that keeps training within a privacy budget, and what it claims.

    No image is looked at. Of your own images the plan needs N alone: state it by -n, or have them counted and declare
    the count public by --public-metadata.

    Without further options the plan is MNIST's: dpdm calibrate --eps 10 --delta 1e-5
    """
    require_one_process("dpdm calibrate")
    console = Console(as_json=json, quiet=quiet)
    if profile is Profile.paper and accountant not in (None, "rdp"):
        raise UsageError(
            f"--profile paper means the rdp accountant, not {accountant}",
            "leave --accountant away, or use --profile exact",
        )
    warm = _warm_start(warm_start, warm_share, profile, sigma)
    from dpdm_cli.privacy.plan_file import refuse_existing, write_plan_file

    if out is not None:
        refuse_existing(out)
    dataset, own = _named(data, dataset)
    facts = _facts(
        dataset,
        own,
        public_metadata,
        settings_for,
        dataset_size=dataset_size,
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        delta=delta,
        clip_norm=clip_norm,
        noise_multiplicity=noise_multiplicity,
    )
    asked = accountant or "prv"
    plan = _plan(profile, facts, epsilon=epsilon, sigma=sigma, accountant=asked, warm=warm)

    from dpdm_cli.privacy.accounting.claims import claim, planned

    result = claim(plan)
    if profile is Profile.exact and plan.accountant != asked:
        why = claim(dataclasses.replace(plan, accountant=asked)).reason
        console.warn(f"calibrated and claimed by {result.accountant.upper()}: {why}")
    elif result.reason:
        console.warn(f"claimed by {result.accountant.upper()}: {result.reason}")
    stated = planned(plan, epsilon)
    if out is not None:
        write_plan_file(out, stated)
        console.note(f"wrote {out}: run it with `dpdm train DATA --plan {out}`")
    console.result(stated.to_json(), lambda: _human(plan, result, epsilon))


def _named(data: str | None, dataset: str | None) -> tuple[str | None, str | None]:
    """The known data set whose plan is taken, and the path of images of the user's own."""
    from dpdm_cli.data.named import NAMED

    if data not in NAMED:
        return dataset, data
    if dataset is not None:
        raise UsageError(f"{data} and --dataset {dataset} are two data sets", "name one of them")
    return data, None


def _facts(
    dataset: str | None,
    path: str | None,
    public_metadata: bool,
    settings_for: str | None,
    **given: Any,
) -> dict[str, Any]:
    """The plan's public figures: what was given, else the data set's; settings may be another's.

    N of the images at `path` is counted if that is declared public.
    """
    size = given["dataset_size"]
    if size is not None and size < 1:
        raise UsageError(
            f"N must be at least 1, found {size}", "give the public number of images with -n"
        )
    from dpdm_cli.training.config.settings import paper_defaults, paper_settings

    facts: dict[str, Any]
    if dataset is not None or (size is None and path is None and settings_for is None):
        facts = paper_defaults(dataset or DEFAULT_DATASET, settings_for)
    elif settings_for is not None:
        facts = paper_settings(settings_for)
        if size is None and path is None:
            raise UsageError(
                f"N is not known: --settings-for {settings_for} takes settings alone",
                "state the number of images with -n, or name a published set with --dataset",
            )
    else:
        facts = {"clip_norm": 1.0, "noise_multiplicity": DEFAULT_MULTIPLICITY}
    if given["epochs"] is not None and given["steps"] is not None:
        raise UsageError("--epochs and --steps say the same twice", "give one of them")
    if given["steps"] is not None:
        facts["epochs"] = None
    facts = {**facts, **{name: value for name, value in given.items() if value is not None}}
    lacking = [name for name in ("batch_size", "delta") if facts.get(name) is None]
    if facts.get("epochs") is None and facts.get("steps") is None:
        lacking.append("epochs")
    if lacking:
        names = ", ".join("--" + name.replace("_", "-") for name in lacking)
        raise UsageError(
            f"a plan for images of your own also needs {names}",
            "for example: dpdm calibrate --eps 10 -n 50000 --batch-size 1000 --epochs 100 "
            "--delta 1e-6",
        )
    if path is not None and size is None:
        from dpdm_cli.training.config.public_facts import public_count

        facts["dataset_size"] = public_count(path, public_metadata)
    return facts


def _warm_start(
    kind: WarmStart, share: float | None, profile: Profile, sigma: float | None
) -> dict[str, Any]:
    """The warm start as arguments of `accounting.calibrate`."""
    if kind is WarmStart.none:
        if share is not None:
            raise UsageError(
                "--warm-share is given without a warm start", "add --warm-start moments"
            )
        return {}
    if profile is Profile.paper or sigma is not None:
        raise UsageError(
            "a warm start is a share of a target, which --profile paper and --sigma have none of",
            "give --eps with --profile exact",
        )
    return {"warm_start": str(kind)} | ({} if share is None else {"warm_share": share})


def _plan(
    profile: Profile,
    facts: dict[str, Any],
    *,
    epsilon: float | None,
    sigma: float | None,
    accountant: str,
    warm: dict[str, Any],
) -> PrivacyPlan:
    """The plan for a target, or for a given sigma."""
    if (epsilon is None) == (sigma is None):
        raise UsageError(
            "give either a target (--eps) or a noise multiplier (--sigma)",
            "for example: dpdm calibrate --eps 10 --delta 1e-5",
        )
    from dpdm_cli.privacy.accounting.claims import calibrate as calibrate_exactly
    from dpdm_cli.privacy.accounting.paper_profile import (
        batches_per_epoch,
        calibrate_like_paper,
        paper_plan,
    )
    from dpdm_cli.privacy.plan import PrivacyPlan, positive_integer, steps_for_epochs

    size, batch, steps = facts["dataset_size"], facts["batch_size"], facts.get("steps")
    common: dict[str, Any] = {
        "dataset_size": size,
        "delta": facts["delta"],
        "clip_norm": facts["clip_norm"],
        "noise_multiplicity": facts["noise_multiplicity"],
    }
    if profile is Profile.paper:
        if steps is None:
            steps = positive_integer("epochs", facts["epochs"]) * batches_per_epoch(size, batch)
        common |= {"batch_size": batch, "steps": steps}
        if epsilon is not None:
            return calibrate_like_paper(epsilon=epsilon, **common)
        return paper_plan(**common | {"sigma": sigma})
    if steps is None:
        steps = steps_for_epochs(size, batch, facts["epochs"])
    common |= {"expected_batch_size": batch, "steps": steps, "accountant": accountant}
    if epsilon is not None:
        return calibrate_exactly(epsilon=epsilon, **common, **warm)
    return PrivacyPlan(**common | {"sigma": sigma})


def _human(plan: PrivacyPlan, result: Claim, target: float | None) -> rich.console.Group:
    """The plan as a table, and one sentence that says what it means."""
    from dpdm_cli.privacy.accounting.claims import round_up

    rows: dict[str, str] = {
        "images N": f"{plan.dataset_size:,}",
        "sampling rate q": f"{plan.sample_rate!r}",
        "expected batch B": f"{plan.expected_batch_size:,.10g}",
        "steps": f"{plan.steps:,}",
        "clip norm C": f"{plan.clip_norm:g}",
        "noise multiplicity K": f"{plan.noise_multiplicity}",
        "sigma": f"{plan.sigma!r}",
        "delta": f"{plan.delta!r}",
    }
    if plan.warm_releases:
        rows["warm start"] = f"{plan.warm_start}, noise {plan.warm_sigma!r} on each sum"
    for name in ("prv", "rdp", "pld"):
        if name in result.epsilon_by:
            text = f"{round_up(result.epsilon_by[name], 4):.4f}"
            text += "  (the claim)" if name == result.accountant else ""
        else:
            text = f"not computed: {result.not_computed.get(name, '')}"
        rows[f"epsilon by {name.upper()}"] = text
    if target is not None:
        rows["target epsilon"] = f"{target:g}, {target - result.epsilon:.2g} of it unused"
    rows["adjacency"] = plan.adjacency.replace("-", " ")
    rows["unit"] = plan.unit
    return rich.console.Group(
        pairs_table(rows, title="Privacy plan"), escape(f"Claim: {result.sentence}")
    )
