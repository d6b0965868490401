"""The choice of kernels and micro-batch: of speed alone, from no data."""

from __future__ import annotations

import pytest
import torch
from support import tiny

from dpdm_cli.privacy.gradients import convolution, tuning
from dpdm_cli.privacy.gradients.per_example import Losses, PerExampleGradients


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_chosen", {})


def made_up() -> tuple[PerExampleGradients, Losses]:
    model = tiny.denoiser(dtype=torch.float64)

    grey = torch.zeros(1000, 1, 8, 8, dtype=torch.float64)
    losses = tiny.losses_of(model, grey, torch.zeros(1000, dtype=torch.int64), 2)
    return PerExampleGradients(model.network), losses


@pytest.mark.parametrize("workers", [1, 2])
def test_every_shape_of_convolution_gets_a_kernel_and_the_micro_batch_is_within_bounds(
    workers: int,
) -> None:
    per_example, losses = made_up()
    found = tuning.tune(per_example, losses, copies=2, workers=workers, most=16)
    assert 1 <= found.micro_batch <= 16
    assert found.seconds > 0
    assert sum(found.kernels.values()) == len(convolution.choices()) > 3
    assert set(found.kernels) <= set(convolution.KERNELS)
    assert str(found.micro_batch) in str(found)


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_is_one_call_for_each_convolution_of_each_worker(workers: int) -> None:
    per_example, losses = made_up()
    layers = sum(isinstance(m, torch.nn.Conv2d) for m in per_example._layers)
    calls: list[None] = []
    tuning.tune(
        per_example,
        losses,
        copies=2,
        workers=workers,
        most=16,
        progress=lambda: calls.append(None),
    )
    assert len(calls) == workers * layers > 3


def test_the_micro_batch_grows_while_that_pays_and_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    per_example, losses = made_up()
    tried = []

    def seconds(_: object, __: object, size: int, ___: int) -> float:
        tried.append(size)
        return {62: 0.8, 125: 0.7, 250: 0.69}.get(size, 0.1)

    monkeypatch.setattr(tuning, "_seconds", seconds)
    found = tuning.tune(per_example, losses, copies=2, workers=1, most=1000)
    assert (found.micro_batch, tried) == (125, [62, 125, 250])


def test_the_largest_size_is_tried_and_memory_bounds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    per_example, losses = made_up()
    monkeypatch.setattr(tuning, "_seconds", lambda _, __, size, ___: 1.0 / size)
    assert tuning.tune(per_example, losses, copies=2, workers=1, most=77).micro_batch == 77
    monkeypatch.setattr(tuning, "_CPU_BYTES", 4 * per_example.size * 20)
    assert tuning.tune(per_example, losses, copies=2, workers=1, most=77).micro_batch == 20
    monkeypatch.setattr(tuning, "_CPU_BYTES", 1)
    assert tuning.tune(per_example, losses, copies=2, workers=1, most=77).micro_batch == 1


@pytest.mark.parametrize("kernel", convolution.KERNELS)
def test_whatever_kernel_is_chosen_the_gradients_are_the_same(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    per_example, losses = made_up()
    expected = per_example(losses, torch.arange(3))
    monkeypatch.setattr(convolution, "_usual", lambda copies, device: kernel)
    assert tiny.relative_error(per_example(losses, torch.arange(3)), expected) < 1e-10
    with convolution.probing():  # every kernel writes, the chosen one last
        probed = per_example(losses, torch.arange(3))
    assert tiny.relative_error(probed, expected) < 1e-10
