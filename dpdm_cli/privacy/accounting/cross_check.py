"""Epsilon by every accountant, and which of them may make the claim."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType

from dpdm_cli.privacy.accounting import accountants
from dpdm_cli.privacy.accounting.accountants import NotComputable, Part

_SHARP = 0.02
"""PRV's error as a share of its epsilon, up to which PLD is not needed."""


@dataclass(frozen=True)
class Bounds:
    """The answer of every accountant.

    Attributes:
        found: epsilon by accountant; rdp is always among them.
        missing: the reason for a missing answer, by accountant.
        eps_error: the error in PRV's.
    """

    found: Mapping[str, float]
    missing: Mapping[str, str]
    eps_error: float

    @property
    def tolerance(self) -> float:
        """By how much correct accountants may differ."""
        return 2 * self.eps_error + 0.01 * self.found.get("prv", self.found["rdp"])

    @property
    def sharp(self) -> bool:
        """Whether PRV is precise enough."""
        return "prv" in self.found and self.eps_error <= _SHARP * self.found["prv"]

    def fault(self, name: str) -> str:
        """Why an accountant may not claim; empty when it may."""
        found = self.found
        if name == "rdp":
            return ""
        if name in self.missing:
            return f"{name.upper()} is not computable here: {self.missing[name]}"
        if found[name] > found["rdp"] + prv_error(found["rdp"]):
            return f"{name.upper()} gives {found[name]:.6g}, above RDP's {found['rdp']:.6g}"
        if "prv" in found and "pld" in found:
            if abs(found["prv"] - found["pld"]) > self.tolerance:
                return f"PRV ({found['prv']:.6g}) and PLD ({found['pld']:.6g}) disagree"
            if name == "prv" and not self.sharp and found["pld"] < found["prv"]:
                return f"PRV's grid allows no error below {self.eps_error:.2g}"
        return ""


def ask_all(parts: tuple[Part, ...], delta: float) -> Bounds:
    """The answer of every accountant for the same releases; takes up to seconds.

    RDP's bound may be infinite; the others have none then.
    """
    rdp = accountants.composed_rdp_epsilon(parts, delta)
    found: dict[str, float] = {}
    missing: dict[str, str] = {}
    eps_error = prv_error(rdp)
    try:
        found["prv"], eps_error = _prv(parts, delta, eps_error)
    except NotComputable as error:
        missing["prv"] = str(error)
    found["rdp"] = rdp
    bounds = Bounds(MappingProxyType(found), MappingProxyType(missing), eps_error)
    try:
        found["pld"] = _pld(parts, delta, bounds)
    except NotComputable as error:
        missing["pld"] = str(error)
    return bounds


def prv_error(epsilon: float) -> float:
    """The error that PRV should add to its estimate: at most 1 % of what epsilon is about."""
    return min(0.01, 0.01 * epsilon)


def _prv(parts: tuple[Part, ...], delta: float, eps_error: float) -> tuple[float, float]:
    """PRV's bound and its error: as asked for, or 1 % of what a first pass finds where that is much less.

    RDP, which the first pass goes by, may be a hundred times too large.
    """
    eps_error = accountants.prv_grid(parts, delta, eps_error).eps_error
    upper = accountants.composed_prv_epsilon(parts, delta, eps_error)
    wanted = max(prv_error(upper - eps_error), accountants.MIN_PRV_ERROR)
    finer = accountants.prv_grid(parts, delta, wanted).eps_error
    if finer <= 0.8 * eps_error:
        with suppress(NotComputable):
            return accountants.composed_prv_epsilon(parts, delta, finer), finer
    return upper, eps_error


def _pld(parts: tuple[Part, ...], delta: float, others: Bounds) -> float:
    """PLD's bound, on a finer grid until it agrees with a sharp PRV, or else until that changes little.

    It errs upwards, and less on a finer grid; a finer grid changes nothing else.
    """
    bound = interval = math.inf
    for wanted in (1e-4, 1e-5, 1e-6):
        finer = accountants.pld_interval(parts, delta, wanted)
        if finer >= interval:
            break
        before, interval = bound, finer
        bound = min(bound, accountants.composed_pld_epsilon(parts, delta, interval))
        if others.sharp and bound <= others.found["prv"] + others.tolerance:
            break
        if before - bound <= 0.01 * bound:
            break
    return bound
