"""The ordinary step, without privacy, beside which the private one is `dpdm_cli.privacy.step`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.compute.threads import micro_batches, parallel_map
from dpdm_cli.privacy.gradients.per_example import Losses


def plain_step(
    network: nn.Module,
    losses: Losses,
    share: Tensor,
    micro_batch: int,
    workers: int = 1,
    processes: Processes = ALONE,
) -> None:
    """Set each parameter's `.grad` to the mean gradient over a batch, zero for an empty one.

    Args:
        losses: of examples [b], as for `PrivateStep`.
        share: this process's part of the batch, [b]; all of it, when it is alone.
        micro_batch, workers, processes: as for `PrivateStep`.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]

    def gradients(indices: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(losses(indices).sum(), parameters)

    totals = [torch.zeros_like(p) for p in parameters]
    for parts in parallel_map(gradients, micro_batches(share, micro_batch, workers), workers):
        for total, part in zip(totals, parts, strict=True):
            total += part
    count = totals[0].new_tensor([len(share)])
    mine = torch.cat([*(total.flatten() for total in totals), count])
    whole = processes.all_gather(processes.reduce_scatter(mine)).flatten()[: len(mine)]
    mean = whole[:-1] / whole[-1].clamp(min=1)
    for parameter, total, flat in zip(
        parameters, totals, torch.split(mean, [p.numel() for p in parameters]), strict=True
    ):
        parameter.grad = total.copy_(flat.view_as(total))
