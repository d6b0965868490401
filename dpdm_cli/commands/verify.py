"""`dpdm verify`: whether files are what was written, and whether their claim holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpdm_cli import choices
from dpdm_cli.commands.console import Console
from dpdm_cli.commands.options import ImagesPerPerson, Json, Quiet, option
from dpdm_cli.compute.launched import require_one_process
from dpdm_cli.errors import UsageError

if TYPE_CHECKING:
    import rich.console

    from dpdm_cli.privacy.statement import Statement
    from dpdm_cli.publishing.verification import Verification


def verify(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|CKPT|SYNTH...",
            help="Run folders, model files, sets of samples.",
            show_default=False,
        ),
    ],
    adjacency: Annotated[
        choices.Adjacency,
        option("replace-one restates the claim for one image or person replaced by another."),
    ] = "add-or-remove-one",
    images_per_person: ImagesPerPerson = None,
    selection: Annotated[
        str | None,
        option(
            "Restate the claim for the best of several runs: their number drawn from a geometric distribution, or "
            "given and all of them composed.",
            metavar="geometric:MEAN|runs:K",
            default="one run",
        ),
    ] = None,
    registry: Annotated[
        Path | None,
        option(
            "Also write a draft for OpenDP's registry of deployments, as JSON, to this new file.",
            metavar="FILE",
            default="none",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check hashes, ledger, epsilon and wording of what was trained or drawn; several are also composed.

    Exit code 4 for damage, 5 for a claim that does not hold or is not made. Detects damage and mistakes, not forgery:
    it trusts what the files say was done.

    Example: dpdm verify runs/mnist runs/mnist/synth
    """
    require_one_process("dpdm verify")
    console = Console(as_json=as_json, quiet=quiet)
    from dpdm_cli.privacy.circumstances import NOT_STATED
    from dpdm_cli.privacy.plan_file import refuse_existing
    from dpdm_cli.publishing import verifying
    from dpdm_cli.publishing.registry import write_record

    if registry is not None:
        refuse_existing(registry)
    result = verifying.verify(
        paths,
        replace_one=adjacency == "replace-one",
        images_per_person=images_per_person,
        selection=selection,
        reporter=console,
    )
    if registry is not None:
        if len(result.artefacts) > 1:
            raise UsageError("--registry is for one artefact at a time", "name one")
        write_record(registry, result.artefacts[0])
        console.note(f"wrote {registry}: fill in what is {NOT_STATED}")
    console.result(result.to_dict(), lambda: _page(result))


def _page(result: Verification) -> rich.console.Group:
    import rich.console
    from rich.markup import escape

    from dpdm_cli.privacy.accounting.claims import round_up
    from dpdm_cli.publishing.claim_sections import budget_words, risk_words

    lines: list[str] = []
    for found in result.artefacts:
        statement, plan = found.statement, found.ledger.plan
        epsilon = statement.epsilon
        lines += [
            f"[bold]{escape(str(found.path))}[/] ({found.kind}): [green]verified[/]",
            "",
            f"  Claim: {escape(statement.text)}",
            "",
            f"  In words: by adding or removing {plan.unit} no outcome gets more likely than by a factor of "
            f"e^{epsilon:g} = {_factor(epsilon)}, but for a probability of delta = "
            f"{statement.delta:g}. Who has to tell from what is published whether a given {plan.record} was among "
            f"those it was trained on, at even odds, is right in at most "
            f"{100 * found.risk.attack.guess:.2f} % of all cases.",
            "",
            "  An attacker's, at most: "
            + "; ".join(f"{name} {bound}" for name, bound in risk_words(found.risk).items())
            + ".",
            f"  Budget by part: {budget_words(found.risk)}.",
            f"  Selection: {escape(statement.about.selection_text)}.{_restating(statement)}",
            f"  Trust: {escape(statement.about.trust_text)}",
            *_said(statement),
            "",
            "  Checked:",
            *(f"    - {escape(line)}" for line in found.checked),
            "  Epsilon, recomputed: "
            + ", ".join(
                f"{round_up(value, 4):.4f} by {name.upper()}"
                for name, value in found.claim.epsilon_by.items()
            )
            + f"; {found.ledger.steps:,} of {plan.steps:,} steps were taken.",
            "  Not covered:",
            *(f"    - {escape(line)}" for line in statement.not_covered),
            "",
        ]
    lines += [escape(line) + "." for line in result.relations]
    if result.together is not None:
        lines.append(
            f"[bold]All of them published, if trained on the same images:[/] epsilon "
            f"{round_up(result.together.epsilon, 4):.4f} at delta {result.together.delta:g} "
            f"(by {result.together.accountant.upper()})."
        )
    for answer in result.restated:
        lines.append(
            f"[bold]{escape(answer.question)}:[/] epsilon {round_up(answer.epsilon, 4):.4f} "
            f"({escape(answer.source)})."
        )
    return rich.console.Group(*map(_hanging, lines))


def _hanging(line: str) -> rich.console.RenderableType:
    """A line that keeps its indent where it is broken, and that of its text behind a dash."""
    from rich.padding import Padding
    from rich.table import Table

    words = line.lstrip(" ")
    if not words:
        return line
    shown: rich.console.RenderableType = words
    if words.startswith("- "):
        item = Table.grid(padding=(0, 1))
        item.add_row("-", words.removeprefix("- "))
        shown = item
    return Padding(shown, (0, 0, 0, len(line) - len(words)), expand=False)


def _factor(epsilon: float) -> str:
    """e^epsilon, rounded up."""
    factor = math.exp(min(epsilon, 700.0))
    return f"{math.ceil(factor):,}" if factor < 1e9 else f"{factor:.1e}"


def _restating(statement: Statement) -> str:
    """What to ask for where one of several runs was chosen: the claim is that of one."""
    runs, chosen_by = statement.about.runs, statement.about.chosen_by
    if runs is None or runs == 1 or chosen_by in ("before", "random"):
        return ""
    if chosen_by == "private-images":
        return " The claim is for one run; nothing here covers a choice by figures of the private images."
    return f" The claim is for one run: --selection runs:{runs} restates it."


def _said(statement: Statement) -> list[str]:
    """What whoever published it says, line by line."""
    from dataclasses import asdict

    from rich.markup import escape

    said = {name: text for name, text in asdict(statement.about.said).items() if text is not None}
    return [f"  Said by the publisher, {name}: {escape(text)}" for name, text in said.items()]
