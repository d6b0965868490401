"""One record changes the sums of a warm start by at most 1, and they carry the noise of the plan."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.errors import PrivacyError
from dpdm_cli.privacy.audit.deviations import chi_square_z
from dpdm_cli.privacy.audit.findings import (
    ALMOST_NO_NOISE,
    NOT_FINITE,
    SENSITIVITY_SLACK,
    Z_LIMIT,
    Finding,
)
from dpdm_cli.privacy.class_sums import noisy_class_squares, noisy_class_sums
from dpdm_cli.privacy.entropy import standard_normal
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan

Release = Callable[..., Tensor]
"""`noisy_class_sums` or `noisy_class_squares`."""


def check_warm_start(plan: PrivacyPlan, processes: Processes = ALONE) -> list[Finding]:
    """Sums of each kind move by at most 1 with a record, carry noise of `warm_sigma`, and are entered in the ledger.

    Among persons suspects with two and fifty vectors are huge too.
    """
    classes, count = 3, 60
    suspects = {"huge": 0, "not a number": 1, "ordinary": 2}
    vectors_of = torch.ones(count, dtype=torch.int64)
    if plan.record == "person":
        suspects |= {"two-image": 3, "fifty-image": 4}
        vectors_of[3:5] = torch.tensor([2, 50])
    of = torch.arange(count).repeat_interleave(vectors_of)
    labels = torch.arange(len(of)) % classes
    labels[of == 4] = (
        0  # so that their fifty vectors come to the bound; those of the two are of different classes
    )
    findings = []
    # Enough numbers of either kind to notice 3 % too little noise.
    for kind, release, size in (
        ("sums", noisy_class_sums, 1 << 14),
        ("squares", noisy_class_squares, 1 << 7),
    ):
        drawn = torch.from_numpy(standard_normal(len(of) * size)).float().view(len(of), size)
        vectors = processes.all_gather(drawn)[0]
        if plan.record == "person":
            vectors[3:55] = vectors[0] * 1e8  # alike, so that they add up
        vectors[0] *= 1e8
        vectors[1] = math.nan

        def released(
            chosen: Tensor,
            ledger: Ledger,
            release: Release = release,
            vectors: Tensor = vectors,
        ) -> Tensor:
            rows = torch.nonzero(torch.isin(of, chosen)).flatten()
            span = processes.span(len(rows))
            parts = torch.split(rows[span.start : span.stop], 16)
            micro_batches = [(vectors[part].clone(), labels[part], of[part]) for part in parts]
            return release(
                ledger,
                micro_batches,
                classes=classes,
                size=vectors.shape[1],
                vectors_of=vectors_of,
                processes=processes,
            )

        def ledger(sigma: float | None = plan.warm_sigma) -> Ledger:
            return Ledger(dataclasses.replace(plan, warm_sigma=sigma))

        everyone = torch.arange(count)
        whole = released(everyone, ledger(ALMOST_NO_NOISE))
        for what, record in suspects.items():
            limit = SENSITIVITY_SLACK + (0.0 if what in NOT_FINITE else 1.0)
            rest = released(everyone[everyone != record], ledger(ALMOST_NO_NOISE))
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
        off = chi_square_z(torch.stack(noise))
        refused = False
        try:
            released(everyone, book)
        except PrivacyError:
            refused = True
        findings += [
            Finding(
                f"warm start, {kind}, noise",
                abs(off) <= Z_LIMIT,
                f"{off:+.1f} standard deviations from that of the plan (limit {Z_LIMIT})",
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
    quiet = dataclasses.replace(plan, warm_sigma=ALMOST_NO_NOISE)
    # Numbers that do not happen to add up without rounding.
    vector = torch.arange(1.0, 1.0 + size).sqrt()
    vector /= vector.norm()

    def released(records: int) -> Tensor:
        span = processes.span(records)
        labels = torch.zeros(len(span), dtype=torch.int64)
        micro_batches = [(vector.repeat(len(span), 1), labels)]
        return noisy_class_sums(
            Ledger(quiet), micro_batches, classes=1, size=size, processes=processes
        )

    distance = float((released(count) - released(count - 1)).norm())
    return Finding(
        "warm start, precision of the sums",
        abs(distance - 1.0) <= SENSITIVITY_SLACK,
        f"{distance:.6f} between sums of {count:,} and {count - 1:,} equal vectors, 1 +- "
        f"{SENSITIVITY_SLACK:g} allowed",
    )
