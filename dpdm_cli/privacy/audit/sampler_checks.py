"""Each record enters each step independently, with the probability of the plan, however many are held.

What is judged are the batches that a real step differentiates: they come out of its own sampler.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dpdm_cli.privacy.audit.deviations import (
    binomial_z,
    limit_of_worst,
    spread_z,
    together_z,
)
from dpdm_cli.privacy.audit.findings import Z_LIMIT, Finding
from dpdm_cli.privacy.audit.replay import steps_alone
from dpdm_cli.privacy.gradients.per_example import Losses, PerExampleGradients
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.step import PrivateStep

_STEPS = 400, 1500  # at least, at most
_SURE = 32.0  # expected number of events: none at all then has a probability of 10^-14
_RECORDS = 200, 1_000_000  # at least, at most
_BATCH = 50.0, 250.0  # records in a step, at least, and as many more as make pairs enough
_EMPTY_STEPS = 500
_HELD_STEPS = 3, 400  # among many or few records: at least, at most
_HELD_DRAWS = 400, 50_000  # of them, in all and in one step
_MICRO_BATCH = 32  # so that most batches are cut into several
_PAIR_BY_PAIR = 1000  # records, to bound the time
_TAILS = (0.05, 0.25)


@dataclass(frozen=True)
class _Batches:
    """What so many steps drew among so many records.

    Attributes:
        steps, records: how many of each.
        step, record: of each draw [draws], ascending by step and, within it, by record.
        wrong: draws of a record that the step had already drawn, or of one that does not exist, which are left out.
    """

    steps: int
    records: int
    step: npt.NDArray[np.int64]
    record: npt.NDArray[np.int64]
    wrong: int

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        return np.bincount(self.step, minlength=self.steps)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        return np.bincount(self.record, minlength=self.records)


class _Seen(PerExampleGradients):
    """In the place of a step's gradients: takes down whose are asked for, and gives none."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.indices = [torch.empty(0, dtype=torch.int64)]

    def __call__(self, losses: Losses, indices: Tensor, out: Tensor | None = None) -> Tensor:
        self.indices.append(indices)
        return self.buffer(0) if out is None else out[:0]


def _drawn(plan: PrivacyPlan, records: int, steps: int) -> _Batches:
    """The batches that a step of the plan differentiates while it holds so many records."""
    ledger = Ledger(steps_alone(plan, plan.sigma, steps))
    network = nn.Linear(1, 1, device="meta").to_empty(device="cpu")  # weights that are never read
    step = PrivateStep(network, ledger, records=records, micro_batch=_MICRO_BATCH)
    step.per_example = seen = _Seen(network)
    batches = []
    for _ in range(steps):
        step(torch.empty_like)  # losses that are never computed
        batches.append(torch.cat(seen.indices).numpy())
        seen.indices = [torch.empty(0, dtype=torch.int64)]
    drawn = [np.unique(batch[(batch >= 0) & (batch < records)]) for batch in batches]
    sizes = [len(some) for some in drawn]
    return _Batches(
        steps,
        records,
        np.repeat(np.arange(steps), sizes),
        np.concatenate(drawn),
        sum(len(batch) for batch in batches) - sum(sizes),
    )


def check_sampler(plan: PrivacyPlan) -> list[Finding]:
    """Each record enters each step independently with probability q: how often, how many at a time, which together."""
    q = plan.sample_rate
    drawn = _drawn(plan, _records(q), _steps(q))
    held = {
        "many": _drawn_among(plan, 3 * plan.dataset_size),
        "few": _drawn_among(plan, max(1, plan.dataset_size // 3)),
    }
    wrong = sum(batches.wrong for batches in (drawn, *held.values()))
    once = Finding(
        "sampler, no record twice",
        wrong == 0,
        f"{wrong:,} draws of a record that its batch already had, or that does not exist",
    )
    if q == 1:
        missed = sum(b.steps * b.records - len(b.step) for b in (drawn, *held.values()))
        return [once, Finding("sampler, rate", missed == 0, f"{missed} draws missed at rate 1")]
    few = max(1, round(0.7 / q))
    empty = int((_drawn(plan, few, _EMPTY_STEPS).sizes == 0).sum())
    chance = float((1 - q) ** few)
    return [
        once,
        _judged(
            "rate",
            [binomial_z(len(drawn.step), drawn.steps * drawn.records, q)],
            f"{len(drawn.step) / (drawn.steps * drawn.records):.6g} where q is {q:.6g}",
        ),
        *(
            _judged(
                f"{name} records held",
                [
                    binomial_z(len(batches.step), batches.steps * batches.records, q),
                    *(binomial_z(int(size), batches.records, q) for size in _ends(batches.sizes)),
                ],
                f"batches of {batches.sizes.mean():,.1f} among {batches.records:,} records, where "
                f"{q * batches.records:,.1f} are expected",
                batches.steps,
            )
            for name, batches in held.items()
        ),
        _judged(
            "sizes of batches",
            [spread_z(drawn.sizes.astype(np.float64), drawn.records), *_tails(drawn, q)],
            "their variance, and how many are large or small",
        ),
        _judged(
            "counts of records",
            [spread_z(drawn.counts.astype(np.float64), drawn.steps)],
            "their variance",
        ),
        _judged(
            "each record",
            [binomial_z(int(count), drawn.steps, q) for count in _ends(drawn.counts)],
            f"drawn {drawn.counts.min()} to {drawn.counts.max()} times in {drawn.steps} steps",
            drawn.records,
        ),
        *_together(drawn, q),
        _judged(
            "empty batches",
            [binomial_z(empty, _EMPTY_STEPS, chance)],
            f"{empty} of {_EMPTY_STEPS} draws among {few} records",
        ),
    ]


def _steps(q: float) -> int:
    """Enough for each pair of records to be missed, or else each record, if it was never drawn."""
    least, most = _STEPS
    enough = next((_SURE / p for p in (q * q, q) if _SURE / p <= most), least)
    return _within(_STEPS, enough)


def _records(q: float) -> int:
    """Enough for every second pair of neighbours to be missed, if they were never drawn together."""
    least, most = _BATCH
    pairs = 2 * _SURE / (_steps(q) * q * q)
    return _within(_RECORDS, min(max(pairs, least / q), most / q))


def _within(bounds: tuple[int, int], wish: float) -> int:
    least, most = bounds
    return math.ceil(min(most, max(least, wish)))


def _drawn_among(plan: PrivacyPlan, held: int) -> _Batches:
    """A few batches among another number of records than the plan's."""
    enough, most = _HELD_DRAWS
    records = max(1, min(held, math.ceil(most / plan.sample_rate)))
    return _drawn(plan, records, _within(_HELD_STEPS, enough / (plan.sample_rate * records)))


def _ends(numbers: npt.NDArray[np.int64]) -> tuple[np.int64, np.int64]:
    return numbers.min(), numbers.max()


def _tails(drawn: _Batches, q: float) -> list[float]:
    """How far the numbers of large and of small batches are from what is expected."""
    from scipy.stats import binom

    found = []
    for share in _TAILS:
        low, high = binom.ppf([share, 1 - share], drawn.records, q)
        small, large = drawn.sizes <= low, drawn.sizes >= high
        found += [
            binomial_z(int(small.sum()), drawn.steps, float(binom.cdf(low, drawn.records, q))),
            binomial_z(int(large.sum()), drawn.steps, float(binom.sf(high - 1, drawn.records, q))),
        ]
    return found


def _together(drawn: _Batches, q: float) -> list[Finding]:
    """Whether records come together, and come again, as often as those that know nothing of each other."""
    step, record, rate = drawn.step, drawn.record, q
    if q > 0.5:  # those that are left out, which are fewer, tell as much
        absent = np.ones((drawn.steps, drawn.records), dtype=bool)
        absent[step, record] = False
        (step, record), rate = np.nonzero(absent), 1 - q
    by_record = np.lexsort((step, record))
    again = together_z(record[by_record], step[by_record], drawn.records, drawn.steps, rate)
    beside = together_z(step, record, drawn.steps, drawn.records, rate)
    findings = [
        _judged(name, [z], f"{words} {apart:,} apart", many)
        for name, words, (z, apart, many) in (
            ("from one step to another", "records drawn again in steps", again),
            ("between records", "records drawn together that lie", beside),
        )
    ]
    if drawn.records <= _PAIR_BY_PAIR:
        masks = np.zeros((drawn.steps, drawn.records), dtype=np.float32)
        masks[drawn.step, drawn.record] = 1.0
        pairs = (masks.T @ masks)[np.triu_indices(drawn.records, 1)].astype(np.int64)
        findings.append(
            _judged(
                "each pair of records",
                [binomial_z(int(count), drawn.steps, q * q) for count in _ends(pairs)],
                f"drawn together {pairs.min()} to {pairs.max()} times in {drawn.steps} steps",
                len(pairs),
            )
        )
    return findings


def _judged(name: str, deviations: list[float], words: str, many: int = 1) -> Finding:
    """The worst of some deviations, which are themselves the worst of so many."""
    z = max(deviations, key=abs)
    limit = Z_LIMIT if many * len(deviations) == 1 else limit_of_worst(many * len(deviations))
    return Finding(
        f"sampler, {name}",
        bool(abs(z) <= limit),
        f"{words}: {z:+.1f} standard deviations off (limit {limit:.1f})",
    )
