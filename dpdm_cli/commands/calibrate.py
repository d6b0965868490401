"""`dpdm calibrate`: how much noise a claim needs, or what a noise level claims."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpdm_cli import choices
from dpdm_cli.commands.console import Console, pairs_table
from dpdm_cli.commands.options import (
    DATA,
    EPSILON,
    OUT,
    PRIVACY,
    Accountant,
    BatchSize,
    ClipNorm,
    DatasetSize,
    Delta,
    Epochs,
    FileColumn,
    Json,
    LabelColumn,
    Labels,
    Layout,
    NoiseMultiplicity,
    PersonColumn,
    PublicMetadata,
    Quiet,
    SettingsFor,
    Steps,
    Unit,
    WarmShare,
    numbers,
    option,
)
from dpdm_cli.compute.launched import require_one_process
from dpdm_cli.errors import UsageError

if TYPE_CHECKING:
    import rich.console
    import rich.table

    from dpdm_cli.training.calibration import Calibration


def calibrate(
    data: Annotated[
        str | None,
        typer.Argument(
            help="A named set; or a folder, zip, npz or prepared file, whose images are counted if N is not stated.",
            show_default=False,
        ),
    ] = None,
    epsilon: Annotated[
        str | None,
        option(
            "The epsilon to stay within: find sigma. Several with commas, for a row each.",
            *EPSILON,
            metavar="EPS[,EPS...]",
            default="none",
        ),
    ] = None,
    sigma: Annotated[
        float | None,
        option("The reverse: what this noise multiplier claims.", default="none"),
    ] = None,
    delta: Delta = None,
    out: Annotated[
        Path | None,
        option("Write the plan to this file, for `dpdm train --plan`.", *OUT, default="none"),
    ] = None,
    plot: Annotated[
        Path | None,
        option(
            "Draw sigma, risk and budget against epsilon: .png, .svg or .pdf.",
            metavar="FILE",
            default="none",
        ),
    ] = None,
    unit: Unit = None,
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
            "Also pay for noisy class means, or means and covariances (moments), before the first step.",
            panel=PRIVACY,
            default="the preset's",
        ),
    ] = None,
    preset: Annotated[
        choices.Preset | None,
        option(
            "Plan what `dpdm train DATA --preset` would: small or paper.",
            panel=PRIVACY,
            default="paper for known sets",
        ),
    ] = None,
    warm_share: WarmShare = None,
    accountant: Accountant = None,
    profile: Annotated[
        choices.Profile,
        option(
            "exact: q = B/N and the least noise. paper: q = 1/ceil(N/B), RDP with orders to "
            "127 and a tolerance of 0.01, as in the paper's tables.",
            panel=PRIVACY,
        ),
    ] = "exact",
    dataset: Annotated[
        str | None,
        option(
            "Take the plan of a known data set: digits, mnist, fashion-mnist, cifar10, celeba, "
            "celeba64 or imagenet32.",
            panel=DATA,
            default="mnist, unless N is given",
        ),
    ] = None,
    settings_for: SettingsFor = None,
    labels: Labels = None,
    label_column: LabelColumn = None,
    file_column: FileColumn = None,
    person_column: PersonColumn = None,
    layout: Layout = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the noise that keeps training within a privacy budget, and what it claims.

    No image is looked at. Of your own images the plan needs N alone: state it by --dataset-size, or have them counted
    and declare the count public by --public-metadata. With --unit person N counts persons, and has to be stated.
    --preset small plans what `dpdm train` with it would do; the preset is that of the paper without.

    Without further options the plan is MNIST's: dpdm calibrate --eps 10 --delta 1e-5
    """
    require_one_process("dpdm calibrate")
    console = Console(as_json=as_json, quiet=quiet)
    from dpdm_cli.reporting import plots, risks
    from dpdm_cli.training import calibration

    targets = numbers(epsilon, "--eps") if epsilon is not None else (None,)
    if len(targets) > 1 and out is not None:
        raise UsageError(
            f"--out {out} is a file of one plan, and --eps names {len(targets)}",
            "calibrate the one to be run alone, or leave --out out",
        )
    if plot is not None:
        plots.check_target(plot)
    found = [
        calibration.calibrate(
            data,
            epsilon=target,
            sigma=sigma,
            delta=delta,
            unit=unit,
            accountant=accountant,
            profile=profile,
            clip_norm=clip_norm,
            noise_multiplicity=noise_multiplicity,
            warm_start=warm_start,
            warm_share=warm_share,
            preset=preset,
            dataset=dataset,
            settings_for=settings_for,
            dataset_size=dataset_size,
            public_metadata=public_metadata,
            batch_size=batch_size,
            epochs=epochs,
            steps=steps,
            out=out,
            labels=labels,
            label_column=label_column,
            file_column=file_column,
            person_column=person_column,
            layout=layout,
            reporter=console,
        )
        for target in targets
    ]
    if plot is not None:
        risks.plot_plans(found, plot)
        console.note(f"wrote {plot}")
    if len(found) == 1:
        console.result(found[0].to_dict(), lambda: _page(found[0]))
    else:
        console.result({"plans": [each.to_dict() for each in found]}, lambda: _rows(found))


def _rows(found: list[Calibration]) -> rich.table.Table:
    """A row for each plan."""
    import rich.box
    import rich.table

    from dpdm_cli.privacy.accounting.claims import round_up
    from dpdm_cli.privacy.accounting.risk import STEPS

    plan = found[0].plan
    table = rich.table.Table(
        title=f"N {plan.dataset_size:,}, q {plan.sample_rate:.6g}, delta {plan.delta:g}",
        caption="guess: an attacker's accuracy at even odds, at most; TPR: found out at 1 % false alarms, at most",
        box=rich.box.SIMPLE,
        title_justify="left",
        caption_justify="left",
    )
    for title in ("target", "epsilon", "by", "sigma", "steps", "guess", "TPR", "warm start"):
        table.add_column(title, justify="right")
    for each in found:
        risk, budget = each.attack_risk, each.risk.budget
        table.add_row(
            f"{each.target_epsilon:g}",
            f"{round_up(each.claim.epsilon, 4):.4f}",
            each.claim.accountant.upper(),
            f"{each.plan.sigma:.7g}",
            f"{each.plan.steps:,}",
            f"{100 * risk.guess:.2f} %",
            f"{100 * dict(risk.true_positive_rates)[0.01]:.2f} %",
            f"{100 * (1 - budget[STEPS]):.0f} %",
        )
    return table


def _page(found: Calibration) -> rich.console.Group:
    """The plan as a table, and one sentence that says what it means."""
    import rich.console
    from rich.markup import escape

    from dpdm_cli.privacy.accounting.claims import round_up
    from dpdm_cli.publishing.claim_sections import budget_words, risk_words

    plan, claim = found.plan, found.claim
    rows = {
        f"{plan.record}s N": f"{plan.dataset_size:,}",
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
        text = f"not computed: {claim.not_computed.get(name, '')}"
        if name in claim.epsilon_by:
            text = f"{round_up(claim.epsilon_by[name], 4):.4f}"
            text += "  (the claim)" if name == claim.accountant else ""
        rows[f"epsilon by {name.upper()}"] = text
    if found.target_epsilon is not None:
        rows["target epsilon"] = f"{found.target_epsilon:g}, {found.stated.slack:.2g} of it unused"
    rows["budget by part"] = budget_words(found.risk)
    rows["an attacker's"] = "at most, asking whether one record was there"
    rows |= {f"  {name}": bound for name, bound in risk_words(found.risk).items()}
    rows["adjacency"] = plan.adjacency.replace("-", " ")
    rows["unit"] = plan.unit
    return rich.console.Group(
        pairs_table(rows, title="Privacy plan"), escape(f"Claim: {claim.sentence}")
    )
