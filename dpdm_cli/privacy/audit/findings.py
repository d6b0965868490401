"""What a check found, and the limits that all checks share."""

from __future__ import annotations

from dataclasses import dataclass

SENSITIVITY_SLACK = 1e-4
"""What rounding may add to a distance of C."""

NOT_FINITE = ("infinite", "not a number")
"""Names of suspects whose gradients are not finite."""

Z_LIMIT = 5.5
"""Standard deviations of a normal variable; passed once in 26 million draws."""

PUBLIC_GRID = 2.0**-20
"""What releases are rounded to, in units of sigma C. Repeated here because it judges the mechanism."""

ALMOST_NO_NOISE = 1e-9
"""Noise multiplier of a step whose sums are to be compared."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: of the check.
        passed: whether the code does what the plan says.
        detail: what was measured and what was allowed, in words.
    """

    name: str
    passed: bool
    detail: str
