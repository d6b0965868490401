"""Replay: the real step on made-up records, with and without one of them; its noise; its sampler; its ledger.

What a statistical audit of a trained model cannot see (3 % too little noise, a clip that leaks through one layer, a
wrong sampler), the step itself shows exactly: with the same randomness for each record, two neighbouring batches may
differ by no more than C.

Every check runs the classes that training runs, on a ledger of its own. Limits are set so that correct code is blamed
less than once in 10,000 audits.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dpdm_cli.errors import PrivacyError
from dpdm_cli.privacy.class_sums import noisy_class_squares, noisy_class_sums
from dpdm_cli.privacy.entropy import standard_normal
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.mechanism import GaussianMechanism
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.poisson import PoissonSampler
from dpdm_cli.privacy.step import Losses, PrivateStep
from dpdm_cli.processes import ALONE, Processes

SENSITIVITY_SLACK = 1e-4
"""What rounding may add to a distance of C."""

NOT_FINITE = ("infinite", "not a number")
"""Names of suspects whose gradients are not finite."""

_Z_LIMIT = 5.5  # standard deviations; once in 26 million draws of a normal variable
_ALMOST_NO_NOISE = 1e-9
_NOISY_STEPS = 4  # on a batch, and as many on the empty batch
_TRIALS = 20_000_000  # of the sampler, at most


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


def check_all(
    network: nn.Module,
    losses: Losses,
    plan: PrivacyPlan,
    *,
    records: int,
    suspects: Mapping[str, int],
    micro_batch: int,
    workers: int = 1,
    processes: Processes = ALONE,
) -> list[Finding]:
    """All checks of the step that `network`, `losses` and `plan` make.

    Args:
        network: as for `PrivateStep`; its `.grad`s are cleared, its weights stay.
        losses: from indices of made-up records [b] to their losses [b], randomness fixed by record.
        plan: of the run; its steps may be fewer than the checks take, since they enter a ledger of their own.
        records: number of made-up records.
        suspects: what is special about a record, and which it is; each is removed in turn.
        micro_batch, workers, processes: as for `PrivateStep`.
    """

    def step(sigma: float, steps: int) -> PrivateStep:
        return PrivateStep(
            network,
            Ledger(_steps_alone(plan, sigma, steps)),
            records=records,
            micro_batch=micro_batch,
            workers=workers,
            processes=processes,
        )

    everyone = torch.arange(records)
    findings = [*check_sensitivity(step, losses, everyone, suspects, plan)]
    findings += check_noise(step, losses, everyone, plan, processes)
    findings += check_precision(plan, _device(network), processes)
    findings += check_sampler(plan)
    if plan.warm_releases:
        findings += check_warm_start(plan, processes)
    for parameter in network.parameters():
        parameter.grad = None
    return findings


Release = Callable[..., Tensor]
"""`noisy_class_sums` or `noisy_class_squares`."""

Maker = Callable[[float, int], PrivateStep]
"""(sigma, steps): a step of the run at another noise, with a ledger for so many releases."""


def _steps_alone(plan: PrivacyPlan, sigma: float, steps: int) -> PrivacyPlan:
    return dataclasses.replace(plan, sigma=sigma, steps=steps, warm_start="none", warm_sigma=None)


class _Fixed:
    """A sampler whose next batch is given."""

    def __init__(self, batch: Tensor) -> None:
        self.batch = batch

    def draw(self, records: int) -> Tensor:
        return self.batch


def _release(step: PrivateStep, losses: Losses, batch: Tensor) -> Tensor:
    """What one step on a given batch releases, as a sum: [P] float64, in the order of the parameters."""
    step._sampler = _Fixed(batch)  # type: ignore[assignment]
    step(losses)
    parts = [p.grad.flatten() for p in step.per_example.parameters if p.grad is not None]
    return torch.cat(parts).double().cpu() * step._mechanism.plan.divisor


def check_sensitivity(
    make: Maker, losses: Losses, everyone: Tensor, suspects: Mapping[str, int], plan: PrivacyPlan
) -> list[Finding]:
    """The sum with and without each suspect differs by at most C, all else equal.

    One whose gradient is not finite counts as zero, so that without it nothing at all may change: that is where
    records which influence each other's gradients show.
    """
    step = make(_ALMOST_NO_NOISE, 1 + len(suspects))
    whole = _release(step, losses, everyone)
    findings = []
    for what, record in suspects.items():
        limit = SENSITIVITY_SLACK + (0.0 if what in NOT_FINITE else 1.0)
        rest = _release(step, losses, everyone[everyone != record])
        distance = float((whole - rest).norm()) / plan.clip_norm
        findings.append(
            Finding(
                f"sensitivity, {what} record",
                distance <= limit,  # False for NaN
                f"{distance:.6f} C between neighbours, at most {limit:g} C allowed",
            )
        )
    return findings


def check_noise(
    make: Maker,
    losses: Losses,
    everyone: Tensor,
    plan: PrivacyPlan,
    processes: Processes = ALONE,
) -> list[Finding]:
    """What a release adds to the sum is N(0, (sigma C)^2), in every tensor, fresh each time, entered in the ledger."""
    total = _release(make(_ALMOST_NO_NOISE, 1), losses, everyone)
    steps = 2 * _NOISY_STEPS
    step = make(plan.sigma, steps)
    scale = plan.sigma * plan.clip_norm
    nobody = everyone[:0]
    residuals = [
        (_release(step, losses, batch) - known) / scale
        for _ in range(_NOISY_STEPS)
        for batch, known in ((everyone, total), (nobody, torch.zeros_like(total)))
    ]
    noise = torch.stack(residuals)  # [T, P]
    names = step.per_example.names
    sizes = [p.numel() for p in step.per_example.parameters]
    worst = max(
        (abs(_chi_square_z(part)), name)
        for part, name in zip(torch.split(noise, sizes, 1), names, strict=True)
    )
    pooled = _chi_square_z(noise)
    spread = float(noise.square().mean().sqrt())
    mean = float(noise.mean()) * math.sqrt(noise.numel())
    pairs = [
        *itertools.combinations(residuals, 2),
        *itertools.combinations(_parts(residuals[0], processes), 2),
    ]
    repeats = max(abs(float((a * b).sum())) / math.sqrt(a.numel() or 1) for a, b in pairs)
    other = (_release(make(plan.sigma, 1), losses, nobody)) / scale
    twice = abs(float((other * residuals[1]).sum())) / math.sqrt(other.numel())
    ledger = step._mechanism._ledger
    refused = False
    try:
        step(losses)
    except PrivacyError:
        refused = True
    return [
        Finding(
            "noise, all tensors",
            abs(pooled) <= _Z_LIMIT,
            f"{spread:.5f} sigma C, {pooled:+.1f} standard deviations from 1 (limit {_Z_LIMIT})",
        ),
        Finding(
            "noise, each tensor",
            worst[0] <= _Z_LIMIT,
            f"at most {worst[0]:.1f} standard deviations off, in {worst[1]} (limit {_Z_LIMIT})",
        ),
        Finding(
            "noise, mean",
            abs(mean) <= _Z_LIMIT,
            f"{mean:+.1f} standard deviations from 0 (limit {_Z_LIMIT})",
        ),
        Finding(
            "noise, never twice",
            max(repeats, twice) <= _Z_LIMIT,
            f"correlations of at most {max(repeats, twice):.1f} standard deviations between any two releases, or the "
            f"parts of one that two processes made (limit {_Z_LIMIT})",
        ),
        Finding(
            "ledger",
            ledger.steps == steps and refused,
            f"{ledger.steps} lines for {steps} releases; one more was {'' if refused else 'not '}refused",
        ),
    ]


def _parts(noise: Tensor, processes: Processes) -> list[Tensor]:
    """The noise [P] of one release, by the process that added it, cut to one length."""
    parts = torch.split(noise, math.ceil(len(noise) / processes.size))
    return [part[: len(parts[-1])] for part in parts]


def check_precision(
    plan: PrivacyPlan, device: torch.device, processes: Processes = ALONE
) -> list[Finding]:
    """Equal gradients of norm C, which round alike, still add up to within the sensitivity."""
    count, size = 512, 10_000
    quiet = _steps_alone(plan, _ALMOST_NO_NOISE, 2)
    mechanism = GaussianMechanism(Ledger(quiet), size, device, processes=processes)
    rows = torch.full((count, size), plan.clip_norm / math.sqrt(size), device=device)

    def released(some: Tensor) -> Tensor:
        span = processes.span(len(some))
        share = some[span.start : span.stop].clone()
        return mechanism.privatize([share]).double() * plan.divisor

    whole, rest = released(rows), released(rows[1:])
    distance = float((whole - rest).norm()) / plan.clip_norm
    return [
        Finding(
            "precision of the sum",
            abs(distance - 1.0) <= SENSITIVITY_SLACK,
            f"{distance:.6f} C between sums of {count} and {count - 1} equal gradients, 1 +- "
            f"{SENSITIVITY_SLACK:g} allowed",
        )
    ]


def check_sampler(plan: PrivacyPlan) -> list[Finding]:
    """Each record enters each step independently with probability q: rates, sizes, counts, lags, empty batches."""
    q = plan.sample_rate
    steps = 400
    records = min(_TRIALS // steps, max(200, math.ceil(50 / q)))
    records += records % 2
    sampler = PoissonSampler(plan)
    masks = np.zeros((steps, records), dtype=np.float32)
    for step in range(steps):
        masks[step, sampler.draw(records).numpy()] = 1.0
    hits = int(masks.sum(dtype=np.float64))
    if q == 1:
        missed = steps * records - hits
        return [Finding("sampler, rate", missed == 0, f"{missed} draws missed at rate 1")]
    rate = _binomial_z(hits, steps * records, q)
    sizes = _spread_z(masks.sum(1, dtype=np.float64), records)
    counts = _spread_z(masks.sum(0, dtype=np.float64), steps)
    lag = _overlap_z(masks[:-1], masks[1:], q)
    halves = _overlap_z(masks[:, : records // 2], masks[:, records // 2 :], q)
    few = max(1, round(0.7 / q))
    draws = 2000 if few <= _TRIALS // 2000 else max(1, _TRIALS // few)
    empty = sum(len(sampler.draw(few)) == 0 for _ in range(draws))
    empty_z = _binomial_z(empty, draws, (1 - q) ** few)
    measured = {
        "rate": (rate, f"{hits / (steps * records):.6g} where q is {q:.6g}"),
        "sizes of batches": (sizes, "their variance"),
        "counts of records": (counts, "their variance"),
        "from one step to the next": (lag, "records drawn again"),
        "between records": (halves, "records drawn together"),
        "empty batches": (empty_z, f"{empty} of {draws} draws among {few} records"),
    }
    return [
        Finding(
            f"sampler, {name}",
            bool(abs(z) <= _Z_LIMIT),
            f"{words}: {z:+.1f} standard deviations off (limit {_Z_LIMIT})",
        )
        for name, (z, words) in measured.items()
    ]


def _binomial_z(count: int, trials: int, chance: float) -> float:
    """How rare so many or more, or so few or fewer, are: in standard deviations of a normal variable.

    Exact, so that an event which is hardly ever expected is not blamed for happening once.
    """
    from scipy.stats import binom, norm

    fewer = float(binom.cdf(count, trials, chance))
    more = float(binom.sf(count - 1, trials, chance))
    z = float(norm.isf(min(fewer, more, 0.5)))
    return z if more < fewer else -z


def _spread_z(counts: np.ndarray[tuple[int], np.dtype[np.float64]], trials: int) -> float:
    """How far the spread of binomial counts is from what it should be, in standard deviations.

    Given how many there are in all: that is judged by itself, and one or two would tell nothing of their spread.
    """
    q = float(counts.mean()) / trials
    if q in (0.0, 1.0):
        return 0.0
    variance = trials * q * (1 - q)
    statistic = float(((counts - trials * q) ** 2).sum()) / variance
    # Of (X - np)^2 / (npq): mean 1, variance 2 + (1 - 6pq) / (npq); one degree of freedom goes to the mean.
    return (statistic - (len(counts) - 1)) / math.sqrt(
        len(counts) * (2 + max(0.0, 1 - 6 * q * (1 - q)) / variance)
    )


def _overlap_z(
    first: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    second: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    q: float,
) -> float:
    """How far the covariance of two masks is from 0, in standard deviations."""
    overlap = float((first * second).sum(dtype=np.float64))
    once = float(first.sum(dtype=np.float64) + second.sum(dtype=np.float64))
    covariance = overlap - q * once + first.size * q * q
    # Where hardly any overlap is expected one or two by chance must not count for much.
    return covariance / math.sqrt(first.size * (q * (1 - q)) ** 2 + 1.0)


def _chi_square_z(noise: Tensor) -> float:
    """How far the sum of squares of n standard normal numbers is from chi-square, in standard deviations.

    Wilson and Hilferty's cube root, good in both tails also for small n.
    """
    n = noise.numel()
    ratio = float(noise.square().sum()) / n
    spread = 2 / (9 * n)
    return float((ratio ** (1 / 3) - (1 - spread)) / math.sqrt(spread))


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def check_warm_start(plan: PrivacyPlan, processes: Processes = ALONE) -> list[Finding]:
    """Sums of each kind move by at most 1 with a record, carry noise of `warm_sigma`, and are entered in the ledger."""
    classes, count = 3, 60
    labels = torch.arange(count) % classes
    suspects = {"huge": 0, "not a number": 1, "ordinary": 2}
    findings = []
    # Enough numbers of either kind to notice 3 % too little noise.
    for kind, release, size in (
        ("sums", noisy_class_sums, 1 << 14),
        ("squares", noisy_class_squares, 1 << 7),
    ):
        drawn = torch.from_numpy(standard_normal(count * size)).float().view(count, size)
        vectors = processes.stacked(drawn)[0]
        vectors[0] *= 1e8
        vectors[1] = math.nan

        def released(
            chosen: Tensor,
            ledger: Ledger,
            release: Release = release,
            vectors: Tensor = vectors,
        ) -> Tensor:
            span = processes.span(len(chosen))
            parts = torch.split(chosen[span.start : span.stop], 16)
            pieces = [(vectors[part].clone(), labels[part]) for part in parts]
            size = vectors.shape[1]
            return release(ledger, pieces, classes=classes, size=size, processes=processes)

        def ledger(sigma: float | None = plan.warm_sigma) -> Ledger:
            return Ledger(dataclasses.replace(plan, warm_sigma=sigma))

        everyone = torch.arange(count)
        whole = released(everyone, ledger(_ALMOST_NO_NOISE))
        for what, record in suspects.items():
            limit = SENSITIVITY_SLACK + (0.0 if what in NOT_FINITE else 1.0)
            rest = released(everyone[everyone != record], ledger(_ALMOST_NO_NOISE))
            distance = float((whole - rest).norm())
            findings.append(
                Finding(
                    f"warm start, {kind}, {what} record",
                    distance <= limit,
                    f"{distance:.6f} between neighbours, at most {limit:g} allowed",
                )
            )
        book, noise = ledger(), []
        assert plan.warm_sigma is not None
        for _ in range(plan.warm_releases):
            residual = (released(everyone, book) - whole) / plan.warm_sigma
            if (
                kind == "squares"
            ):  # the entries above the diagonal, and sqrt(2) times them, have all of the noise
                row, column = torch.triu_indices(size, size)
                residual = residual[:, row, column] * torch.where(row == column, 1.0, math.sqrt(2))
            noise.append(residual.flatten())
        off = _chi_square_z(torch.stack(noise))
        refused = False
        try:
            released(everyone, book)
        except PrivacyError:
            refused = True
        findings += [
            Finding(
                f"warm start, {kind}, noise",
                abs(off) <= _Z_LIMIT,
                f"{off:+.1f} standard deviations from that of the plan (limit {_Z_LIMIT})",
            ),
            Finding(
                f"warm start, {kind}, ledger",
                book.releases == plan.warm_releases and refused,
                f"{book.releases} lines for {plan.warm_releases} sums; one more was "
                f"{'' if refused else 'not '}refused",
            ),
        ]
    return [*findings, _precision_of_sums(plan, processes)]


def _precision_of_sums(plan: PrivacyPlan, processes: Processes) -> Finding:
    """As many equal vectors as a large class has records still add up to within the sensitivity."""
    count, size = 1 << 17, 16
    quiet = dataclasses.replace(plan, warm_sigma=_ALMOST_NO_NOISE)
    # Numbers that do not happen to add up without rounding.
    vector = torch.arange(1.0, 1.0 + size).sqrt()
    vector /= vector.norm()

    def released(records: int) -> Tensor:
        span = processes.span(records)
        labels = torch.zeros(len(span), dtype=torch.int64)
        pieces = [(vector.repeat(len(span), 1), labels)]
        return noisy_class_sums(Ledger(quiet), pieces, classes=1, size=size, processes=processes)

    distance = float((released(count) - released(count - 1)).norm())
    return Finding(
        "warm start, precision of the sums",
        abs(distance - 1.0) <= SENSITIVITY_SLACK,
        f"{distance:.6f} between sums of {count:,} and {count - 1:,} equal vectors, 1 +- "
        f"{SENSITIVITY_SLACK:g} allowed",
    )
