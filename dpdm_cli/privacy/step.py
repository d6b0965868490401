"""One private step: select, differentiate, clip, noise, account. Algorithm 1 of DPDM (arXiv 2210.09929).

It is handed a function from examples to one loss per example, so it serves a diffusion model and a classifier alike.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.compute.threads import parallel_map
from dpdm_cli.privacy.entropy import Entropy
from dpdm_cli.privacy.gradients.per_example import PerExampleGradients
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.mechanism import GaussianMechanism
from dpdm_cli.privacy.poisson import PoissonSampler

Losses = Callable[[Tensor], Tensor]
"""From indices of examples [b] to their losses [b]; the loss of one must not depend on the others.
With several workers it is called by their threads."""


class PrivateStep:
    """Noisy gradients of a network's trainable parameters.

    Guarantee: each call is one release of the plan's subsampled Gaussian mechanism, whatever the micro-batch.

    Args:
        network: its trainable parameters are differentiated; see `PerExampleGradients` for what it may hold.
        ledger: the plan, and where each call is entered.
        records: number of records really held; only their selection depends on it.
        micro_batch: at most so many examples are differentiated at a time. Speed and memory, not the mechanism.
        workers: micro-batches differentiated side by side, in threads; for a network on a CPU.
        entropy: source of secret bytes.
        processes: that take each step together. The first of them draws the batch, each differentiates its share of it,
            and all get the same gradient.
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
        device = self.per_example.parameters[0].device
        self._sampler = PoissonSampler(ledger.plan, entropy)
        self._mechanism = GaussianMechanism(
            ledger, self.per_example.size, device, entropy, processes
        )
        self._records = records
        self._micro_batch = micro_batch
        self._workers = workers
        # Fresh memory of this size is fetched from the system page by page, each time.
        self._memory: deque[Tensor] = deque()
        self._device = device
        self._processes = processes

    def __call__(self, losses: Losses) -> None:
        """Draw a batch and set each parameter's `.grad` to the noisy mean gradient.

        Raises:
            PrivacyError: the plan's steps are spent.
        """
        share = self._processes.share(lambda: self._sampler.draw(self._records)).to(self._device)

        @contextmanager
        def gradients(piece: Tensor) -> Iterator[Tensor]:
            with self._lent_memory() as memory:
                yield self.per_example(partial(losses, piece), len(piece), out=memory)

        pieces = _pieces(share, self._micro_batch, self._workers)
        self.per_example.assign(self._mechanism.privatize(pieces, gradients, self._workers))

    @contextmanager
    def _lent_memory(self) -> Iterator[Tensor]:
        try:
            memory = self._memory.pop()
        except IndexError:
            memory = self.per_example.buffer(self._micro_batch)
        try:
            yield memory
        finally:
            self._memory.append(memory)


def plain_step(
    network: nn.Module,
    losses: Losses,
    share: Tensor,
    micro_batch: int,
    workers: int = 1,
    processes: Processes = ALONE,
) -> None:
    """The ordinary step, without privacy: set `.grad` to the mean gradient over a batch, zero for an empty one.

    Args:
        share: this process's part of the batch, [b]; all of it, when it is alone.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]

    def gradients(piece: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(losses(piece).sum(), parameters)

    totals = [torch.zeros_like(p) for p in parameters]
    with closing(parallel_map(gradients, _pieces(share, micro_batch, workers), workers)) as done:
        for piece in done:
            for total, gradient in zip(totals, piece, strict=True):
                total += gradient
    count = totals[0].new_tensor([len(share)])
    mine = torch.cat([*(total.flatten() for total in totals), count])
    whole = processes.whole(processes.part_of_sum(mine), len(mine))
    mean = whole[:-1] / whole[-1].clamp(min=1)
    for total, summed in zip(
        totals, torch.split(mean, [p.numel() for p in parameters]), strict=True
    ):
        total.copy_(summed.view_as(total))
    for parameter, total in zip(parameters, totals, strict=True):
        parameter.grad = total


def _pieces(batch: Tensor, most: int, workers: int) -> Sequence[Tensor]:
    """Micro-batches of at most that size, as equal as can be and as many for each worker; none of an empty batch."""
    if not len(batch):
        return ()
    rounds = math.ceil(len(batch) / (most * workers))
    return torch.tensor_split(batch, min(rounds * workers, len(batch)))


def parameter_count(network: nn.Module) -> int:
    """P, the number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
