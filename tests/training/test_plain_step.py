"""The ordinary step: whatever the micro-batch and the workers, the gradient of the mean loss."""

from __future__ import annotations

import pytest
import torch
from support import tiny

from dpdm_cli.training.plain_step import plain_step

RECORDS = 23


@pytest.mark.parametrize(("micro_batch", "workers"), [(23, 1), (4, 1), (4, 2), (1, 4), (64, 3)])
@pytest.mark.parametrize("size", [0, RECORDS])
def test_the_gradient_is_that_of_the_mean_loss_and_zero_of_an_empty_batch(
    size: int, micro_batch: int, workers: int
) -> None:
    model = tiny.denoiser(dtype=torch.float64)
    data = tiny.images(RECORDS)
    losses = tiny.losses_of(model, data.images.double() / 127.5 - 1, data.labels, copies=2)
    batch, parameters = torch.arange(size), list(model.network.parameters())
    expected = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    if size:
        by_autograd = torch.autograd.grad(losses(batch).mean(), parameters)
        expected = torch.cat([g.flatten() for g in by_autograd])
    plain_step(model.network, losses, batch, micro_batch, workers)
    found = torch.cat([p.grad.flatten() for p in parameters])
    assert (found - expected).norm() <= 1e-10 * expected.norm()
