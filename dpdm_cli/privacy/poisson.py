"""Select: which records take part in a step.

Poisson sampling is what the accountants assume: each record is drawn independently with probability q, so the
batch size is random and an empty batch is a legal outcome.
"""

from __future__ import annotations

import os

import torch

from dpdm_cli.privacy.entropy import Entropy, bernoulli
from dpdm_cli.privacy.plan import PrivacyPlan


class PoissonSampler:
    """Secret Poisson draws at the plan's rate.

    Guarantee: over the life of the sampler every record enters every step independently with probability
    `plan.sample_rate`, whatever the number of records really held (the plan's dataset size is a public figure).
    """

    def __init__(self, plan: PrivacyPlan, entropy: Entropy = os.urandom) -> None:
        self._rate = plan.sample_rate
        self._entropy = entropy

    def draw(self, records: int) -> torch.Tensor:
        """Indices of one step's batch among `records` records, ascending, int64 [batch]; may be empty."""
        return torch.from_numpy(bernoulli(self._rate, records, self._entropy))
