"""`dpdm verify`: whether files are what was written, and whether their claim holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpdm_cli import choices
from dpdm_cli.commands.console import Console
from dpdm_cli.commands.options import Json, Quiet, option
from dpdm_cli.compute.launched import require_one_process

if TYPE_CHECKING:
    import rich.console

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
        option("replace-one restates the claim for one image replaced by another."),
    ] = "add-or-remove-one",
    images_per_person: Annotated[
        int | None,
        option("Restate the claim for people with up to K images.", metavar="K", default="1"),
    ] = None,
    selection: Annotated[
        str | None,
        option(
            "Restate the claim for the best of several runs, their number drawn from a geometric distribution.",
            metavar="geometric:MEAN",
            default="one run",
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
    from dpdm_cli.publishing import verifying

    result = verifying.verify(
        paths,
        replace_one=adjacency == "replace-one",
        images_per_person=images_per_person,
        selection=selection,
        reporter=console,
    )
    console.result(result.to_dict(), lambda: _page(result))


def _page(result: Verification) -> rich.console.Group:
    import rich.console
    from rich.markup import escape

    from dpdm_cli.privacy.accounting.claims import round_up

    lines: list[str] = []
    for found in result.artefacts:
        statement, plan = found.statement, found.ledger.plan
        epsilon = statement.epsilon
        lines += [
            f"[bold]{escape(str(found.path))}[/] ({found.kind}): [green]verified[/]",
            "",
            f"  Claim: {escape(statement.text)}",
            "",
            "  In words: by adding or removing one image no outcome gets more likely than by a factor of "
            f"e^{epsilon:g} = {_factor(epsilon)}, but for a probability of delta = "
            f"{statement.delta:g}. Who has to tell from what is published whether a given image was among those it "
            f"was trained on, at even odds, is right in at most {_share(epsilon, statement.delta)} of all cases.",
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
    return rich.console.Group(*lines)


def _factor(epsilon: float) -> str:
    """e^epsilon, rounded up."""
    factor = math.exp(min(epsilon, 700.0))
    return f"{math.ceil(factor):,}" if factor < 1e9 else f"{factor:.1e}"


def _share(epsilon: float, delta: float) -> str:
    """The best anyone can do at telling two neighbouring data sets apart, rounded up."""
    right = (1 / (1 + math.exp(-min(epsilon, 700.0)))) * (1 - delta) + delta
    digits = next((n for n in range(1, 6) if right <= 1 - 10.0 ** -(n + 1)), 6)
    return (
        f"{100 * min(1.0, math.ceil(right * 10 ** (digits + 2)) / 10 ** (digits + 2)):.{digits}f} %"
    )
