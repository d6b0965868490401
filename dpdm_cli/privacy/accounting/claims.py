"""What a plan may claim, and the plan that a claim needs.

A claim is never below the truth as far as the accountants know: it is made by the accountant the
plan names where that one is computable and agrees with the others, else by PLD or RDP with a reason.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from pathlib import Path

from dpdm_cli.errors import PrivacyError, UsageError
from dpdm_cli.privacy.accounting import accountants
from dpdm_cli.privacy.accounting.accountants import MAX_SIGMA, MIN_SIGMA, NotComputable, Part
from dpdm_cli.privacy.accounting.cross_check import Bounds, ask_all, prv_error
from dpdm_cli.privacy.plan import (
    WARM_SHARE,
    PrivacyPlan,
    check_delta,
    check_warm_start,
    positive_integer,
    positive_number,
)
from dpdm_cli.privacy.plan_file import PlanFile, read_plan_file
from dpdm_cli.privacy.units import UNITS, WORDS, record_of
from dpdm_cli.stored import Json

MAX_EPSILON = 1000.0
TIGHTNESS = 0.999
"""A calibrated plan claims at least this share of its target."""

_FAR = 3.0
"""What no bound counts as, in logarithms of epsilon above the target."""

_WORTHWHILE = 50.0
"""A larger epsilon protects nobody: RDP's figure, which every reader can check, serves as well as a tight one."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """(epsilon, delta)-differential privacy for one record, as the named accountant proves it.

    Attributes:
        epsilon: the claim, an upper bound; print it by `epsilon_text`, which rounds up.
        delta: the plan's.
        accountant: the one that made the claim: prv, rdp or pld.
        epsilon_by: the bound of every accountant that has one; rdp is always among them.
        reason: why the claim is not by the accountant the plan names; empty when it is.
        not_computed: why an accountant has no bound, by accountant.
        unit: what a record is, one of `plan.UNITS`.
    """

    epsilon: float
    delta: float
    accountant: str
    epsilon_by: Mapping[str, float]
    reason: str = ""
    not_computed: Mapping[str, str] = field(default_factory=dict, compare=False)
    unit: str = UNITS[0]

    @property
    def epsilon_text(self) -> str:
        """Epsilon for the screen, rounded up at two decimals, at four below 1."""
        digits = 2 if self.epsilon >= 1 else 4
        return f"{round_up(self.epsilon, digits):.{digits}f}"

    @property
    def sentence(self) -> str:
        """The claim in words; its factor is that of the epsilon it shows, both rounded up."""
        epsilon = round_up(self.epsilon, 4)
        factor = ""
        if epsilon < 13:
            factor = f" = {round_up(math.exp(epsilon), 0 if epsilon > 3 else 2):,g}"
        whole = WORDS[record_of(self.unit)].whole
        return (
            f"({epsilon}, {self.delta:g})-differential privacy for {self.unit}. "
            f"Adding or removing any {whole} multiplies the probability of any outcome by at most "
            f"e^{epsilon}{factor}, plus {self.delta:g}."
        )

    def to_dict(self) -> Json:
        """The claim beside `PrivacyPlan.to_dict`, under names that do not clash with it."""
        return {
            "epsilon": self.epsilon,
            "claimed_by": self.accountant,
            "epsilon_by": dict(self.epsilon_by),
            "reason": self.reason,
        }


def claim(plan: PrivacyPlan, steps: int | None = None) -> Claim:
    """What may be claimed after `steps` steps of the plan, or after all of them; its warm start comes before them.

    Every accountant is asked (`cross_check.ask_all`). The one that the plan names claims; where it
    may not, PLD does, up to an epsilon of 50, else RDP. Answers are remembered; one takes up to
    seconds.

    Raises:
        UsageError: steps below 1: what took no step has nothing to claim.
        PrivacyError: RDP has no finite bound.
    """
    taken = plan.steps if steps is None else positive_integer("steps", steps)
    parts = accounted_parts(plan, plan.warm_releases + taken)
    return _claim(parts, plan.delta, plan.accountant, plan.unit)


def spent(plan: PrivacyPlan, steps: int) -> float:
    """An upper bound on epsilon after the first steps of a plan, by the accountant of its claim alone: within 0.02 and
    quick, to be shown while a run goes on. What may be claimed is `claim`.

    Raises:
        as `claim`.
    """
    whole = claim(plan)
    taken = positive_integer("steps", steps)
    parts = accounted_parts(plan, plan.warm_releases + taken)
    bounds = [whole.epsilon, accountants.composed_rdp_epsilon(parts, plan.delta)]
    with suppress(accountants.NotComputable):
        if whole.accountant == "prv":
            error = prv_error(whole.epsilon)
            bounds.append(accountants.composed_prv_epsilon(parts, plan.delta, error))
        elif whole.accountant == "pld":
            bounds.append(accountants.composed_pld_epsilon(parts, plan.delta, 1e-3))
    return min(bounds)


def compose(releases: Sequence[Part], delta: float, unit: str = UNITS[0]) -> Claim:
    """What may be claimed at `delta` for several releases from the same records, all published.

    Args:
        releases: (q, sigma, how often), see `PrivacyPlan.parts`. Those of equal rates and noise are one part.

    Returns:
        as `claim` for a plan that names PRV.

    Raises:
        UsageError: no release, or one of no step.
        PrivacyError: RDP has no finite bound.
    """
    steps_of: dict[tuple[float, float], int] = {}
    for q, sigma, steps in releases:
        part = _rate(q), sigma
        steps_of[part] = steps_of.get(part, 0) + positive_integer("steps", steps)
    if not steps_of:
        raise UsageError("nothing to compose", "name at least one release")
    return _claim(
        tuple((*part, steps) for part, steps in sorted(steps_of.items())), delta, "prv", unit
    )


def _claim(parts: tuple[Part, ...], delta: float, asked: str, unit: str) -> Claim:
    bounds = _bounds(parts, delta)
    used, reason = asked, bounds.fault(asked)
    if reason:
        used = "rdp" if bounds.fault("pld") or bounds.found["pld"] > _WORTHWHILE else "pld"
    return Claim(
        epsilon=bounds.found[used],
        delta=delta,
        accountant=used,
        epsilon_by=bounds.found,
        reason=reason,
        not_computed=bounds.missing,
        unit=unit,
    )


def accounted_parts(plan: PrivacyPlan, releases: int | None = None) -> tuple[Part, ...]:
    """The plan's first releases, for the accountants."""
    return tuple((_rate(q), sigma, steps) for q, sigma, steps in plan.parts(0, releases))


def _rate(sample_rate: float) -> float:
    """The sampling rate for the accountants: a larger one costs more, so 1e-12 bounds the rest."""
    return max(sample_rate, 1e-12)


@lru_cache(maxsize=4096)
def _bounds(parts: tuple[Part, ...], delta: float) -> Bounds:
    bounds = ask_all(parts, delta)
    if not math.isfinite(bounds.found["rdp"]):
        raise PrivacyError(
            f"no finite epsilon can be claimed at sigma = {min(sigma for _, sigma, _ in parts):g}",
            "add more noise: `dpdm calibrate` finds how much",
        )
    return bounds


def calibrate(
    *,
    epsilon: float,
    delta: float,
    dataset_size: int,
    expected_batch_size: float,
    steps: int,
    clip_norm: float = 1.0,
    noise_multiplicity: int = 1,
    accountant: str = "prv",
    warm_start: str = "none",
    warm_share: float = WARM_SHARE,
    unit: str = UNITS[0],
) -> PrivacyPlan:
    """The plan with the least noise in its steps whose claim is at most `epsilon`.

    `claim(plan).epsilon` is at most the target and at least 99.9 % of it, unless claims jump over
    that range. Where the accountant asked for cannot claim, the plan's `accountant` is the one that
    does.

    Args:
        warm_share: of the budget, for the warm start. All its sums together cost what one Gaussian release costs
            that is noisier by 1/sqrt(warm_share) than the one that would spend all of (epsilon, delta): a share in
            the sense of zero-concentrated privacy, where shares add up to 1.

    Raises:
        UsageError, PrivacyError: as for `PrivacyPlan`; a share outside (0, 1); an epsilon that is not a
            positive number; one that no amount of noise between sigma = 0.01 and 10^6 reaches, or above 1000.
    """
    target = check_target(epsilon)
    sums, warm_sigma = check_warm_start(warm_start), None
    if sums:
        if not 0 < warm_share < 1:
            raise UsageError(
                f"the warm start's share of the budget is {warm_share!r}",
                "give a number between 0 and 1",
            )
        delta = positive_number("delta", delta)
        check_delta(delta, positive_integer("dataset_size", dataset_size), record_of(unit))
        from dp_accounting import get_sigma_gaussian

        alone = get_sigma_gaussian(target, delta)
        warm_sigma = _seven_digits_up(alone * math.sqrt(sums / warm_share))

    def plan_with(sigma: float) -> PrivacyPlan:
        return PrivacyPlan(
            dataset_size=dataset_size,
            expected_batch_size=expected_batch_size,
            steps=steps,
            sigma=sigma,
            delta=delta,
            clip_norm=clip_norm,
            noise_multiplicity=noise_multiplicity,
            accountant=accountant,
            warm_start=warm_start,
            warm_sigma=warm_sigma,
            unit=unit,
        )

    draft = plan_with(1.0)
    q, delta = _rate(draft.sample_rate), draft.delta

    def parts(sigma: float) -> tuple[Part, ...]:
        return accounted_parts(plan_with(sigma))

    def rdp(sigma: float) -> float:
        return accountants.composed_rdp_epsilon(parts(sigma), delta)

    def roughly(sigma: float) -> float:
        if accountant == "pld":
            interval = 1e-3 if target > 1 else 1e-4
            return accountants.composed_pld_epsilon(parts(sigma), delta, interval)
        fine = accountants.prv_grid(parts(sigma), delta, prv_error(target)).eps_error
        coarse = 10 * fine
        return accountants.composed_prv_epsilon(parts(sigma), delta, coarse) - coarse + fine

    def claimed(sigma: float) -> float:
        return claim(plan_with(sigma)).epsilon

    # As the noise of T steps were one Gaussian's; only where the search begins.
    guess = max(0.3, q * math.sqrt(draft.steps * 2 * math.log(1.25 / delta)) / target)
    least = by_rdp = _least_sigma(rdp, target, guess)
    if accountant == "pld" or (accountant == "prv" and target <= _WORTHWHILE):
        near = _least_sigma(roughly, target, 0.95 * (by_rdp or guess)) or by_rdp
        least = near and _least_sigma(claimed, target, near)
    if least is None:
        raise PrivacyError(
            f"epsilon = {target:g} cannot be claimed at delta = {delta:g} for {draft.steps} steps "
            f"at q = {q:g}: RDP claims {rdp(MAX_SIGMA):.2g} to {rdp(MIN_SIGMA):.2g} for sigma from "
            f"{MAX_SIGMA:g} to {MIN_SIGMA:g}",
            "choose an epsilon well inside that range",
        )
    plan = plan_with(least)
    return dataclasses.replace(plan, accountant=claim(plan).accountant)


def check_target(epsilon: object) -> float:
    """`epsilon` as a float that a plan can be calibrated to.

    Raises:
        UsageError: no positive finite number.
        PrivacyError: above 1000.
    """
    target = positive_number("epsilon", epsilon)
    if target > MAX_EPSILON:
        raise PrivacyError(
            f"epsilon = {target:g} is above {MAX_EPSILON:g}: such a claim protects nobody",
            "choose an epsilon of at most 10 or so",
        )
    return target


def _least_sigma(bound: Callable[[float], float], target: float, guess: float) -> float | None:
    """Sigma with TIGHTNESS * target <= bound(sigma) <= target, by Brent's method in log-log from a guess on.

    A sigma for which there is no bound is not safe. Returns the smallest sigma found on the safe side when `bound`
    jumps over that range, and None when it stays above (or below) the target for all noise that is allowed.
    """
    from scipy.optimize import brentq

    aim = math.log(target * (1 + TIGHTNESS) / 2)
    lowest, highest = math.log(MIN_SIGMA), math.log(MAX_SIGMA)
    safe: list[float] = []

    @lru_cache
    def excess(x: float) -> float:
        sigma = _seven_digits_up(math.exp(x))
        try:
            value = bound(sigma)
        except NotComputable:
            value = math.inf
        if value <= target:
            safe.append(sigma)
        if TIGHTNESS * target <= value <= target:
            return 0.0
        return min(math.log(max(value, 1e-300)) - aim, _FAR)

    end = min(max(math.log(guess), lowest), highest)
    while excess(end):
        start, step = (
            end,
            min(max(excess(end), -2.0), 2.0),
        )  # epsilon falls at least as fast as 1 / sigma
        end = min(max(start + 1.01 * step, lowest), highest)
        if end == start:
            return None
        if excess(start) * excess(end) < 0:
            brentq(excess, start, end, xtol=1e-5)
            break
    return min(safe)


def _seven_digits_up(sigma: float) -> float:
    """`sigma` rounded up to seven significant digits, so that it can be read and copied."""
    exponent = 6 - math.floor(math.log10(sigma))
    return float(
        Decimal(repr(sigma)).scaleb(exponent).to_integral_value(ROUND_CEILING).scaleb(-exponent)
    )


def planned(plan: PrivacyPlan, target: float | None = None) -> PlanFile:
    """A plan with what may be claimed for it, as a file states both; `target` is the epsilon that was asked for."""
    found = claim(plan)
    return PlanFile(
        plan=plan,
        epsilon=found.epsilon,
        claimed_by=found.accountant,
        epsilon_by=dict(found.epsilon_by),
        reason=found.reason,
        target_epsilon=target,
        slack=None if target is None else target - found.epsilon,
    )


def check_plan_file(path: str | Path) -> tuple[PrivacyPlan, Claim]:
    """The plan in a file and what may truly be claimed for it.

    Raises:
        PrivacyError: the file states a smaller epsilon, or a smaller risk, than the true one.
        DataError, DamagedFileError: as for `read_plan_file`.
    """
    stated = read_plan_file(path)
    epsilon, true = stated.epsilon, claim(stated.plan)
    # Another release of the numerical libraries may differ in the last digits.
    if not epsilon >= true.epsilon * (1 - 1e-6):
        raise PrivacyError(
            f"{path} states epsilon = {epsilon!r}, but its plan costs {true.epsilon_text}",
            "calibrate again: `dpdm calibrate --out plan.json`",
        )
    if stated.risk is not None:
        from dpdm_cli.privacy.accounting.risk import Risk  # which asks for claims itself

        Risk.from_json(stated.risk).check(stated.plan)
    return stated.plan, true


def round_up(value: float, digits: int) -> float:
    """`value` at `digits` decimals, never below it: 9.9999 gives 10.0 at 2, 10.0001 gives 10.01.

    Infinities and NaN come back unchanged.
    """
    if not math.isfinite(value):
        return value
    return float(Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), ROUND_CEILING))
