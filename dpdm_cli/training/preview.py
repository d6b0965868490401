"""Grids drawn from a model in training, so that an eye can judge whether it learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dpdm_cli.errors import UsageError


@dataclass(frozen=True)
class Previews:
    """Pictures on the way.

    They cost no privacy. A preview is drawn from the weights after a step, which the run has released and paid for in
    its ledger; the claim is for the weights after every step together, not for the last alone. So that this stays true
    of a run that is killed, a step is in the saved ledger before it is drawn from: no step whose picture somebody may
    have seen is taken twice.

    Attributes:
        every: so many steps.
        draw: from the trainer as it is, in the first process.
    """

    every: int
    draw: Callable[[], None]


def check_preview(every: int | None) -> None:
    """Raise `UsageError` for a number of steps that there is none of."""
    if every is not None and every < 1:
        raise UsageError(
            f"preview is {every}, the steps between two grids",
            "give 100 for example, or leave it out",
        )
