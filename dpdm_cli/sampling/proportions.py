"""Shares of the classes in a set of images, and which class each image has, so that every beginning has them too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from math import gcd

import numpy as np

from dpdm_cli.errors import UsageError

_FINEST = 10_000
"""A share is a whole number of parts in so many; the order of classes repeats after as many images at most."""

_SLACK = Fraction(1, 1000)  # what shares may lack to 1, as three times 0.333 does


def parse_proportions(text: str) -> list[float] | dict[str, float]:
    """Shares given as `0.7,0.3`, in the order of the classes, or as `CLASS=0.7,CLASS=0.3`. Raises UsageError."""
    parts = [part.rpartition("=") for part in text.split(",")]
    try:
        shares = [float(share) for _, _, share in parts]
    except ValueError:
        raise _unusable(text[:80]) from None
    names = [name.strip() for name, sign, _ in parts if sign]
    if not names:
        return shares
    if len(names) < len(parts) or len(set(names)) < len(names):
        raise UsageError(
            f"proportions {text[:80]!a} name some classes, or one twice",
            "name each class once, or none and give the shares in the order of the classes",
        )
    return dict(zip(names, shares, strict=True))


def check_shares(shares: Sequence[float]) -> tuple[float, ...]:
    """Shares of classes, each above 0, that make up a whole.

    Raises:
        UsageError: they do not, or one is finer than a ten-thousandth.
    """
    for share in shares:
        is_number = isinstance(share, int | float) and not isinstance(share, bool)
        if not is_number or not 0 < share <= 1 or (_exact(share) * _FINEST).denominator > 1:
            raise _unusable(str(share)[:80])
    found = tuple(map(float, shares))
    total = sum(map(_exact, found), Fraction(0))
    if abs(total - 1) > _SLACK:
        raise UsageError(
            f"the proportions sum to {float(total):g}, not to 1", "give the share of every class"
        )
    return found


def by_class(
    given: Sequence[float] | Mapping[str, float],
    classes: Sequence[str],
    cycle: tuple[int, ...],
    *,
    labels_given: bool,
) -> dict[str, float]:
    """The classes that are drawn, and the share of each.

    Args:
        given: shares in the order of `cycle`, or by class name.
        classes: names in label order.
        cycle: labels of the classes in turn.
        labels_given: whether these were chosen.

    Raises:
        UsageError: shares that make no sense, of no class or of one that is not known.
    """
    if not classes:
        raise UsageError(
            "proportions are given, but the model knows no classes", "leave out --proportions"
        )
    if isinstance(given, Mapping):
        if labels_given:
            raise UsageError(
                "labels are given, and proportions that name classes",
                "leave out --labels: classes that get no share are not drawn",
            )
        if unknown := [name for name in given if name not in classes]:
            raise UsageError(
                f"the model knows no class {str(unknown[0])[:80]!a}",
                f"name some of {', '.join(classes[:20])}",
            )
        return dict(zip(given, check_shares([*given.values()]), strict=True))
    if len(set(cycle)) < len(cycle):
        raise UsageError(
            "labels are repeated, and proportions are given", "give each label once, with its share"
        )
    if len(given) != len(cycle):
        raise UsageError(
            f"{len(given):,} proportions are given for {len(cycle):,} classes",
            "give one for each class, or name the classes: CLASS=0.7,CLASS=0.3",
        )
    return dict(zip((classes[label] for label in cycle), check_shares(given), strict=True))


def cycle_of(proportions: Mapping[str, float], classes: Sequence[str]) -> tuple[int, ...]:
    """Label of image i, for i modulo the length."""
    labels = [classes.index(name) for name in proportions]
    return tuple(labels[turn] for turn in turns(tuple(proportions.values())))


@lru_cache(maxsize=8)
def turns(shares: tuple[float, ...]) -> tuple[int, ...]:
    """Whose turn it is, as an index of `shares`, for image i modulo the length.

    Of the first i images each class has its share of i within one image, for every i, so that more images only add to
    fewer (the chairman assignment of Tijdeman 1980, Discrete Mathematics 32, 323-330).
    """
    parts = [int(_exact(share) * _FINEST) for share in shares]
    weights = np.array(parts, np.int64) // gcd(*parts)
    whole, bound = int(weights.sum()), 2 * max(1, len(shares) - 1)
    done = np.zeros_like(weights)
    order = []
    for step in range(1, whole + 1):
        lacking = bound * (weights * step - whole * done)  # in images, times bound * whole
        urgency = np.where(lacking >= whole, (whole * (bound - 1) - lacking) / weights, np.inf)
        order.append(int(urgency.argmin()))
        done[order[-1]] += 1
    return tuple(order)


def _exact(share: float) -> Fraction:
    """The number that was written."""
    return Fraction(str(share))


def _unusable(share: str) -> UsageError:
    return UsageError(
        f"{share!a} is no share of a class",
        "give shares above 0 with at most four decimals that sum to 1: 0.7,0.3 or CLASS=0.7,CLASS=0.3",
    )
