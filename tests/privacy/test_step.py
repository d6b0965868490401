"""The private step: one gradient whatever the micro-batch and the workers, and its noise, divisor and ledger."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from support import tiny
from torch import Tensor

from dpdm_cli.errors import PrivacyError
from dpdm_cli.privacy import noise
from dpdm_cli.privacy.audit.replay import release_of, step_on
from dpdm_cli.privacy.clipping import clipped_sum
from dpdm_cli.privacy.gradients.per_example import Losses
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.step import PrivateStep

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


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("micro_batch", "workers"), [(4, 1), (4, 2), (1, 4), (64, 3)])
def test_the_private_gradient_without_noise_is_the_loop_over_examples(
    micro_batch: int, workers: int, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "standard_normal", lambda size, *_: np.zeros(size))
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

    def failing(indices: Tensor) -> Tensor:
        if 11 in indices:
            raise RuntimeError("record 11")
        return losses(indices)

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

    def counted(indices: Tensor) -> Tensor:
        sizes.append(len(indices))
        return losses(indices)

    PrivateStep(network, ledger, records=RECORDS, micro_batch=micro_batch, workers=workers)(counted)
    assert sum(sizes) == RECORDS
    assert max(sizes) <= micro_batch
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) >= workers


def released(rows: Tensor, ledger: Ledger) -> Tensor:
    """What a step gives for the mean of given gradients [n, P], all of them in its batch."""
    step, losses = step_on(rows, ledger, micro_batch=2)
    return release_of(step, losses, torch.arange(len(rows))) / ledger.plan.divisor


def residuals(size: int, steps: int, sigma: float, clip: float) -> np.ndarray:
    """(divisor * release - sum) / (sigma C), [steps, size]."""
    ledger = Ledger(tiny.plan(steps=steps, sigma=sigma, clip_norm=clip))
    rows = []
    for _ in range(steps):
        gradients = torch.randn(3, size)
        release = released(gradients, ledger) * ledger.plan.divisor
        rows.append((release - clipped_sum(gradients.clone(), clip)) / (sigma * clip))
    return torch.stack(rows).double().numpy()


@pytest.mark.parametrize(("sigma", "clip"), [(2.0, 1.0), (0.6, 0.01)])
def test_the_residual_is_standard_normal_independent_and_never_repeated(
    sigma: float, clip: float
) -> None:
    found = residuals(8_000, 40, sigma, clip)
    count = found.size
    chi_square = float((found**2).sum())
    # Two-sided at 1e-4: a noise deficit of 3 % is 34 standard deviations away.
    assert stats.chi2.ppf(5e-5, count) < chi_square < stats.chi2.ppf(1 - 5e-5, count)
    assert abs(found.mean()) < 5 / math.sqrt(count)
    lag_one = (found[1:] * found[:-1]).mean()
    assert abs(lag_one) < 5 / math.sqrt(count)
    assert stats.kstest(found[0], "norm").pvalue > 1e-5
    assert abs(np.corrcoef(found).flatten()[1 : 1 + 39]).max() < 5.5 / math.sqrt(8_000)


def test_the_chi_square_test_would_notice_three_percent_less_noise() -> None:
    found = 0.97 * residuals(8_000, 40, 2.0, 1.0)
    assert float((found**2).sum()) < stats.chi2.ppf(5e-5, found.size)


def test_an_empty_batch_is_a_step_of_noise_in_every_coordinate() -> None:
    ledger = Ledger(tiny.plan(steps=20))
    for step in range(20):
        release = released(torch.empty(0, 1_000), ledger)
        assert release.isfinite().all()
        assert (release != 0).all()
        assert ledger.steps == step + 1


def test_the_divisor_is_the_expected_batch_size_whatever_the_batch() -> None:
    for rows in (0, 1, 40):
        ledger = Ledger(tiny.plan(sigma=1.0, expected_batch_size=16))
        release = released(torch.zeros(rows, 20_000), ledger)
        assert release.std() == pytest.approx(1 / 16, rel=0.05)


def test_step_t_plus_one_is_refused_before_a_batch_is_drawn() -> None:
    ledger = Ledger(tiny.plan(steps=2))
    released(torch.empty(0, 5), ledger)
    released(torch.empty(0, 5), ledger)
    step, losses = step_on(torch.ones(3, 5), ledger, micro_batch=2)

    def drawn(_: int) -> Tensor:
        raise AssertionError("drawn")

    step._sampler.draw = drawn  # type: ignore[method-assign]
    with pytest.raises(PrivacyError, match="spent"):
        step(losses)
    assert ledger.steps == 2
    assert step.per_example.parameters[0].grad is None


def test_the_release_is_float32_whatever_the_gradients() -> None:
    release = released(torch.zeros(2, 5, dtype=torch.float64), Ledger(tiny.plan()))
    assert torch.equal(release, release.float().double())
