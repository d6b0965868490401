"""The noise the DPDM paper's code would choose, to the last digit.

Its convention is Opacus': q = 1/ceil(N/B) and ceil(N/B) steps an epoch, because both come from the
length of a data loader, and a bisection that stops 0.01 below the target epsilon of the RDP
accountant. Orders to 127 give the sigmas of the paper's tables. The plans are valid: their
expected batch is N/ceil(N/B), which is what q = 1/ceil(N/B) makes it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

from dpdm_cli.errors import PrivacyError, UsageError
from dpdm_cli.privacy.accounting.accountants import MAX_SIGMA, PAPER_ORDERS, composed_rdp_epsilon
from dpdm_cli.privacy.accounting.claims import check_target
from dpdm_cli.privacy.plan import PrivacyPlan, positive_integer, positive_number

TOLERANCE = 0.01


def batches_per_epoch(dataset_size: int, batch_size: float) -> int:
    """ceil(N / B), in exact arithmetic.

    Raises:
        UsageError: arguments that are not positive, or more than N in a batch.
    """
    images = positive_integer("dataset_size", dataset_size)
    batch = positive_number("batch_size", batch_size)
    if batch > images:
        raise UsageError(
            f"batch_size is {batch:g}, more than the {images} images there are",
            "choose a batch size of at most the data set's size",
        )
    return math.ceil(images / Fraction(batch))


def paper_plan(
    *,
    sigma: float,
    delta: float,
    dataset_size: int,
    batch_size: float,
    steps: int,
    clip_norm: float = 1.0,
    noise_multiplicity: int = 1,
) -> PrivacyPlan:
    """A plan under the paper's convention for q, claimed by RDP.

    Raises:
        UsageError, PrivacyError: as for `PrivacyPlan`.
    """
    return PrivacyPlan(
        dataset_size=dataset_size,
        expected_batch_size=dataset_size / batches_per_epoch(dataset_size, batch_size),
        steps=steps,
        sigma=sigma,
        delta=delta,
        clip_norm=clip_norm,
        noise_multiplicity=noise_multiplicity,
        accountant="rdp",
    )


def calibrate_like_paper(
    *,
    epsilon: float,
    delta: float,
    dataset_size: int,
    batch_size: float,
    steps: int,
    clip_norm: float = 1.0,
    noise_multiplicity: int = 1,
) -> PrivacyPlan:
    """The plan that the paper's code would run for this target; up to 0.01 below it.

    The search is that of Opacus' `get_noise_multiplier`: double sigma from 20 until it is enough,
    then halve the interval down to 0.

    Raises:
        UsageError, PrivacyError: as for `accounting.calibrate`.
    """
    target = check_target(epsilon)
    draft = paper_plan(
        sigma=1.0,
        delta=delta,
        dataset_size=dataset_size,
        batch_size=batch_size,
        steps=steps,
        clip_norm=clip_norm,
        noise_multiplicity=noise_multiplicity,
    )
    q = 1 / batches_per_epoch(dataset_size, batch_size)

    def spent(sigma: float) -> float:
        return composed_rdp_epsilon(((q, sigma, draft.steps),), draft.delta, PAPER_ORDERS)

    low, high = 0.0, 20.0
    while (reached := spent(high)) > target:
        high *= 2
        if high > MAX_SIGMA:
            raise PrivacyError(
                f"epsilon = {target:g} at delta = {draft.delta:g} is below what RDP with orders to "
                "127 can claim for any noise",
                "choose a larger epsilon, or --profile exact",
            )
    while target - reached > TOLERANCE and high - low > 1e-12 * high:
        middle = (low + high) / 2
        if (value := spent(middle)) < target:
            high, reached = middle, value
        else:
            low = middle
    return replace(draft, sigma=high)
