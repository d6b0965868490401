"""`dpdm audit`: test whether the training step keeps its guarantee."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpdm_cli import choices
from dpdm_cli.commands.console import Console
from dpdm_cli.commands.options import (
    EPSILON,
    MODEL,
    OUT,
    Device,
    Json,
    MicroBatch,
    PlanFile,
    Precision,
    Quiet,
    SettingsFor,
    option,
)
from dpdm_cli.compute.launched import require_one_process
from dpdm_cli.errors import PrivacyError

if TYPE_CHECKING:
    import rich.console

    from dpdm_cli.auditing.run import AuditResult

STATISTICAL = "Statistical audit"


def audit(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="CKPT",
            help="Audit the network and plan of this model or run.",
            show_default="those of the preset",
        ),
    ] = None,
    checks: Annotated[
        bool,
        option(
            "Run the real step with and without a record; test its noise, sampler and ledger.",
            "--checks/--no-checks",
        ),
    ] = True,
    statistical: Annotated[
        bool,
        option("Run the real step with canaries and bound epsilon from below.", "--statistical"),
    ] = False,
    epsilon: Annotated[float, option("What is claimed.", *EPSILON)] = 10.0,
    out: Annotated[Path, option("Picture of the statistical audit; must not exist.", *OUT)] = Path(
        "audit.png"
    ),
    unit: Annotated[
        choices.Unit | None,
        option(
            "What a record is; person audits persons with one, two and fifty images.",
            default="the plan's, else image",
        ),
    ] = None,
    plan: PlanFile = None,
    preset: Annotated[choices.Preset, option("Network and plan to audit.", panel=MODEL)] = "small",
    settings_for: SettingsFor = None,
    dataset: Annotated[str, option("Named set the network is for.", panel=MODEL)] = "mnist",
    canaries: Annotated[
        int | None,
        option(
            "How many.",
            panel=STATISTICAL,
            default="600, or more where that is too few for each tensor to have some",
        ),
    ] = None,
    steps: Annotated[int, option("Steps of the audit's own plan.", min=2, panel=STATISTICAL)] = 40,
    device: Device = "auto",
    precision: Precision = "auto",
    micro_batch: MicroBatch = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Test whether the training step keeps its guarantee. Reads no data; exit code 5 when it does not.

    Example: dpdm audit --statistical
    """
    require_one_process("dpdm audit")
    console = Console(as_json=as_json, quiet=quiet)
    from dpdm_cli.auditing import run as auditing

    result = auditing.audit(
        checkpoint,
        checks=checks,
        statistical=statistical,
        preset=preset,
        settings_for=settings_for,
        dataset=dataset,
        epsilon=epsilon,
        unit=unit,
        plan=plan,
        canaries=canaries,
        steps=steps,
        device=device,
        precision=precision,
        micro_batch=micro_batch or 0,
        picture=out if statistical else None,
        reporter=console,
    )
    console.result(result.to_dict(), lambda: _page(result))
    if not result.passed:
        raise PrivacyError(
            "the audit failed: the step does not keep its claim",
            "do not publish a model that it trains",
        )


def _page(result: AuditResult) -> rich.console.Group:
    import rich.box
    import rich.console
    import rich.table
    from rich.markup import escape

    parts: list[rich.console.RenderableType] = [f"Audited: {escape(result.network)}"]
    if result.plan is not None:
        parts.append(
            f"Replayed: {result.records} probe records, each {result.plan.unit}, at most {result.micro_batch} at a "
            f"time, precision {result.precision}"
        )
    if result.findings:
        table = rich.table.Table(box=rich.box.SIMPLE)
        for heading in ("check", "", "measured"):
            table.add_column(heading)
        for finding in result.findings:
            table.add_row(
                escape(finding.name),
                "[green]pass[/]" if finding.passed else "[red]FAIL[/]",
                escape(finding.detail),
            )
        parts.append(table)
    played = result.canaries
    if played is not None:
        total = len(played.taken) + len(played.left_out)
        table = rich.table.Table(
            title=f"{total} canaries, {played.plan.steps} steps at rate 1, sigma {played.plan.sigma:g}; "
            f"claimed: epsilon {played.claimed:.4f}",
            title_justify="left",
            box=rich.box.SIMPLE,
        )
        for heading in (
            "epsilon is at least (95 %)",
            "in / out",
            "one run",
            "error rates",
            "means",
        ):
            table.add_column(heading)
        for bounds in played.shown:
            table.add_row(
                bounds.group,
                f"{bounds.taken} / {bounds.left_out}",
                "-" if bounds.one_run is None else f"{bounds.one_run:.2f}",
                f"{bounds.clopper_pearson:.2f}",
                f"{bounds.gaussian_mean:.2f}",
            )
        parts.append(table)
        worst = played.worst
        verdict = "[green]pass[/]" if played.passed else "[red]FAIL[/]"
        parts.append(
            f"{verdict}: beyond doubt (1 in 10,000) no group proves more than epsilon {worst.highest:.2f} "
            f"(in {escape(worst.group)})."
        )
        parts.append(
            f"These are lower bounds, not the privacy: a step of exactly the claimed strength would show about "
            f"{played.ideal:.1f} by means here, so that smaller losses than the rest can go unseen."
        )
        if unjudged := played.unjudged:
            parts.append(
                f"{len(unjudged)} of the network's tensors have too few canaries of their own to be judged apart (the "
                f"checks place a record in each): {escape(', '.join(unjudged))}."
            )
        if result.picture is not None:
            parts.append(f"Picture: {escape(str(result.picture))}")
    return rich.console.Group(*parts)
