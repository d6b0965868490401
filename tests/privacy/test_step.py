"""The step, private and ordinary: whatever the micro-batch and the workers, one gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import tiny
from torch import Tensor

from dpdm_cli.privacy import mechanism
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.step import Losses, PrivateStep, plain_step

RECORDS = 23


def model_and_losses() -> tuple[torch.nn.Module, Losses]:
    model = tiny.denoiser(dtype=torch.float64)
    data = tiny.images(RECORDS)
    return model.network, tiny.losses_of(
        model, data.images.double() / 127.5 - 1, data.labels, copies=2
    )


def gradient(network: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def whole_set_plan(clip_norm: float) -> PrivacyPlan:
    """So rarely is a record left out, once in 10^9, that the whole set is the batch."""
    return PrivacyPlan(
        dataset_size=RECORDS,
        expected_batch_size=RECORDS * (1 - 1e-9),
        steps=3,
        sigma=1.0,
        delta=1e-3,
        clip_norm=clip_norm,
    )


@pytest.mark.parametrize(("micro_batch", "workers"), [(23, 1), (4, 1), (4, 2), (1, 4), (64, 3)])
def test_the_ordinary_gradient_is_that_of_the_mean_loss(micro_batch: int, workers: int) -> None:
    network, losses = model_and_losses()
    losses(torch.arange(RECORDS)).mean().backward()
    expected = gradient(network)
    plain_step(network, losses, torch.arange(RECORDS), micro_batch, workers)
    assert tiny.relative_error(gradient(network), expected) < 1e-10


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("micro_batch", "workers"), [(4, 1), (4, 2), (1, 4), (64, 3)])
def test_the_private_gradient_without_noise_is_the_loop_over_examples(
    micro_batch: int, workers: int, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mechanism, "standard_normal", lambda size, *_: np.zeros(size))
    network, losses = model_and_losses()
    clip = 0.7
    total = torch.zeros(sum(p.numel() for p in network.parameters()), dtype=torch.float64)
    for record in range(RECORDS):
        network.zero_grad()
        losses(torch.tensor([record])).sum().backward()
        one = gradient(network)
        total += one * min(1.0, clip / float(one.norm()))
    if channels_last:
        network.to(memory_format=torch.channels_last)
    plan = whole_set_plan(clip)
    step = PrivateStep(
        network, Ledger(plan), records=RECORDS, micro_batch=micro_batch, workers=workers
    )
    for _ in range(plan.steps):  # the memory of the first step is used again
        step(losses)
        found = gradient(network) * plan.divisor
        assert tiny.relative_error(found, total) < 2e-5  # the slack of the clip is 1e-5


def test_an_error_in_a_worker_reaches_the_caller_and_releases_nothing() -> None:
    network, losses = model_and_losses()
    ledger = Ledger(whole_set_plan(1.0))
    step = PrivateStep(network, ledger, records=RECORDS, micro_batch=2, workers=2)

    def failing(piece: Tensor) -> Tensor:
        if 11 in piece:
            raise RuntimeError("record 11")
        return losses(piece)

    with pytest.raises(RuntimeError, match="record 11"):
        step(failing)
    assert ledger.steps == 0
    assert all(p.grad is None for p in network.parameters())
    step(losses)
    assert ledger.steps == 1


@pytest.mark.parametrize(("micro_batch", "workers"), [(23, 1), (4, 1), (4, 2), (1, 4), (64, 3)])
def test_a_batch_is_shared_out_evenly_within_the_micro_batch(
    micro_batch: int, workers: int
) -> None:
    network, losses = model_and_losses()
    ledger = Ledger(whole_set_plan(1.0))
    sizes = []

    def counted(piece: Tensor) -> Tensor:
        sizes.append(len(piece))
        return losses(piece)

    PrivateStep(network, ledger, records=RECORDS, micro_batch=micro_batch, workers=workers)(counted)
    assert sum(sizes) == RECORDS
    assert max(sizes) <= micro_batch
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) >= workers
