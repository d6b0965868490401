"""Records whose gradients are known, and what the step makes of them."""

from __future__ import annotations

import pytest
import torch
from support import tiny
from torch import Tensor

from dpdm_cli.compute.device import to_device
from dpdm_cli.diffusion.unet import UNet
from dpdm_cli.privacy import clipping, step
from dpdm_cli.privacy.audit.findings import Finding
from dpdm_cli.privacy.audit.replay import Maker, in_precision, steps_alone
from dpdm_cli.privacy.audit.step_checks import check_tensors
from dpdm_cli.privacy.audit.tensor_records import TensorRecords
from dpdm_cli.privacy.gradients.per_example import PerExampleGradients
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.step import PrivateStep
from dpdm_cli.training.config.network import blank_images, network_config
from dpdm_cli.training.config.settings import preset_settings

CPU = torch.device("cpu")
TENSORS = PerExampleGradients(tiny.denoiser().network)
STARTS = [sum(p.numel() for p in TENSORS.parameters[:i]) for i in range(len(TENSORS.names))]


def checked(network: torch.nn.Module, *, micro_batch: int = 64, many: int = 0) -> list[Finding]:
    plan = tiny.plan(clip_norm=0.3)

    def make(sigma: float, steps: int) -> PrivateStep:
        ledger = Ledger(steps_alone(plan, sigma, steps))
        return PrivateStep(network, ledger, records=1, micro_batch=micro_batch)

    maker: Maker = make
    records = TensorRecords(network, 1e3 * plan.clip_norm)
    return check_tensors(maker, records.losses, records, plan, many)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_record_s_gradient_is_known_and_lies_in_its_tensor_alone(bf16: bool) -> None:
    network = to_device(tiny.denoiser(), CPU).network
    records, per_example = TensorRecords(network, 50.0), PerExampleGradients(network)
    count = len(records.names)
    losses = in_precision(records.losses, CPU, bf16)
    rows = per_example(losses, torch.arange(count + 1))
    expected = records.directions()
    for index, row in enumerate(rows[:count]):
        per_example.assign(row)
        for tensor, parameter in enumerate(per_example.parameters):
            found = parameter.grad.flatten().double()
            if tensor != index:
                assert not found.any(), (records.names[index], records.names[tensor])
            else:
                assert float(found.norm()) == pytest.approx(50.0, rel=4e-3 if bf16 else 1e-5)
                assert float((found / found.norm() - expected[tensor]).norm()) < 1e-6
    # The last one has the same energy in every tensor.
    sizes = [p.numel() for p in per_example.parameters]
    shares = torch.stack([part.norm() for part in torch.split(rows[count], sizes)]) / 50.0
    assert torch.allclose(shares, torch.full((count,), count**-0.5), rtol=1e-2)


def test_no_two_tensors_of_one_shape_have_the_same_pattern() -> None:
    network = tiny.denoiser().network
    records = TensorRecords(network, 1.0)
    patterns = {
        (tuple(parameter.shape), tuple(direction.sign().tolist()))
        for parameter, direction in zip(TENSORS.parameters, records.directions(), strict=True)
    }
    assert len(patterns) == len(records.names)


@pytest.mark.parametrize("many", [0, 400])
@pytest.mark.parametrize("micro_batch", [1, 7, 64, 1000])
def test_the_step_gives_each_tensor_c_and_no_more(micro_batch: int, many: int) -> None:
    findings = checked(tiny.denoiser().network, micro_batch=micro_batch, many=many)
    assert [finding for finding in findings if not finding.passed] == []


@pytest.mark.parametrize("tensor", range(0, len(STARTS), 11))
def test_a_tensor_that_is_left_out_of_the_norm_is_named(
    tensor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, parameter = TENSORS.names[tensor], TENSORS.parameters[tensor]
    hidden = slice(STARTS[tensor], STARTS[tensor] + parameter.numel())

    def clip(gradients: Tensor, clip_norm: float) -> Tensor:
        seen = gradients.clone()
        seen[:, hidden] = 0.0
        return (clip_norm / seen.norm(dim=1)).clamp(max=1.0) @ gradients

    monkeypatch.setattr(step, "clipped_sum", clip)
    alone, together = checked(tiny.denoiser().network)
    assert not alone.passed
    assert f" {name} alone" in alone.detail
    # The record in all of them does not depend on where it is looked for.
    assert not together.passed


def test_every_tensor_of_the_paper_s_network_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = preset_settings("paper", "digits", 10.0)
    network = to_device(UNet(network_config(blank_images("digits", settings), settings)), CPU)
    findings = checked(network, micro_batch=16)
    assert all(finding.passed for finding in findings), findings
    per_example = PerExampleGradients(network)
    assert f"furthest off of {len(per_example.names)} tensors" in findings[0].detail
    real = clipping.clip_factors

    def without_the_last(rows: Tensor, norm: float) -> Tensor:
        return real(rows[:, : -per_example.parameters[-1].numel()], norm)

    monkeypatch.setattr(clipping, "clip_factors", without_the_last)
    alone, _ = checked(network, micro_batch=16)
    assert not alone.passed
    assert f" {per_example.names[-1]} alone" in alone.detail
