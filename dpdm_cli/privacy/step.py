"""The private step, top to bottom: select, differentiate, clip, sum, noise, record, divide.

DP-SGD (Abadi et al. 2016, arXiv 1607.00133, Algorithm 1) with one gradient for each image, the mean over its noisy
copies (DPDM, arXiv 2210.09929, Algorithm 1). It is handed a function from examples to one loss per example, so it
serves a diffusion model and a classifier alike.
"""

from __future__ import annotations

import os
import threading

import torch
from torch import Tensor, nn

from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.compute.threads import micro_batches, parallel_map
from dpdm_cli.privacy.clipping import clipped_sum
from dpdm_cli.privacy.entropy import Entropy
from dpdm_cli.privacy.gradients.per_example import Losses, PerExampleGradients
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.noise import with_noise
from dpdm_cli.privacy.poisson import PoissonSampler


class PrivateStep:
    """The subsampled Gaussian mechanism on the gradients of a network's trainable parameters.

    Guarantee: each call is one release of the plan's mechanism, of sensitivity C and noise multiplier sigma under
    adding or removing one record, and one line in the ledger: there is no noisy gradient without a line and no line
    without noise. Micro-batch, workers, device and processes change speed and memory, not the mechanism.

    Args:
        network: its trainable parameters are differentiated; see `PerExampleGradients` for what it may hold.
        ledger: the plan, and where each call is entered.
        records: number of records really held; only their selection depends on it.
        micro_batch: at most so many examples are differentiated at a time.
        workers: micro-batches differentiated and clipped side by side, in threads; for a network on a CPU.
        entropy: source of secret bytes.
        processes: that take each step together, every one with a ledger of the same plan. The first of them draws the
            batch, each differentiates its share of it, and all get the same gradient.
    """

    def __init__(
        self,
        network: nn.Module,
        ledger: Ledger,
        *,
        records: int,
        micro_batch: int,
        workers: int = 1,
        entropy: Entropy = os.urandom,
        processes: Processes = ALONE,
    ) -> None:
        self.per_example = PerExampleGradients(network)
        self.ledger = ledger
        self._sampler = PoissonSampler(ledger.plan, entropy)
        self._records = records
        self._micro_batch = micro_batch
        self._workers = workers
        self._entropy = entropy
        self._processes = processes
        self._device = self.per_example.parameters[0].device
        self._this_thread = threading.local()

    def __call__(self, losses: Losses) -> None:
        """Draw a batch and set each parameter's `.grad` to its noisy mean gradient.

        That is (sum of clipped gradients + sigma C N(0, I)) / divisor, float32 before it gets the parameter's dtype.
        An empty batch is a legal one, and gives noise alone.

        Raises:
            PrivacyError: the plan's steps are spent.
        """
        plan = self.ledger.plan
        self.ledger.require_budget()

        # Select: each record with probability q, independently; each process takes its share of them.
        share = self._processes.scatter_indices(lambda: self._sampler.draw(self._records))
        parts = micro_batches(share.to(self._device), self._micro_batch, self._workers)

        def sum_of_clipped(indices: Tensor) -> Tensor:
            # Differentiate: one gradient [P] for each example.
            gradients = self.per_example(losses, indices, out=self._memory())
            # Clip: each to norm C at most.
            return clipped_sum(gradients, plan.clip_norm)

        # Sum: over micro-batches in float64, which mps does not have.
        wide = torch.device("cpu") if self._device.type == "mps" else self._device
        total = torch.zeros(self.per_example.size, dtype=torch.float64, device=wide)
        for clipped in parallel_map(sum_of_clipped, parts, self._workers):
            total += clipped.to(total)

        # Noise: once, on the sum over all processes.
        scale = plan.sigma * plan.clip_norm
        noisy = with_noise(total, scale, self._entropy, self._workers, self._processes)

        # Record: the release is in the ledger before anybody has it.
        self.ledger.record()

        # Divide: by the expected batch size, which is public, never by the actual one.
        self.per_example.assign((noisy / plan.divisor).to(self._device, torch.float32))

    def _memory(self) -> Tensor:
        """This thread's own, for a micro-batch. Fresh memory of its size would be fetched page by page each time."""
        if not hasattr(self._this_thread, "gradients"):
            self._this_thread.gradients = self.per_example.buffer(self._micro_batch)
        gradients: Tensor = self._this_thread.gradients
        return gradients
