"""Group normalisation in either memory order against torch's own in float64."""

from __future__ import annotations

import pytest
import torch
from support import tiny
from torch import Tensor, nn

from dpdm_cli.compute.group_norm import GroupNorm, backward, forward


def both(
    layout: torch.memory_format, offset: float = 0.0
) -> tuple[GroupNorm, nn.GroupNorm, Tensor]:
    torch.manual_seed(0)
    ours, theirs = GroupNorm(4, 12).double(), nn.GroupNorm(4, 12).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_()
    theirs.load_state_dict(ours.state_dict())
    x = (torch.randn(5, 12, 3, 6, dtype=torch.float64) + offset).to(memory_format=layout)
    return ours, theirs, x


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_is_torchs_forward_and_backward(layout: torch.memory_format) -> None:
    ours, theirs, x = both(layout)
    g = torch.randn_like(x)
    found = []
    for layer, start in ((ours, x), (theirs, x.contiguous())):
        inputs = start.clone().requires_grad_()
        y = layer(inputs)
        y.backward(g)
        found.append((y.detach(), inputs.grad, layer.weight.grad, layer.bias.grad))
    assert found[0][0].is_contiguous(memory_format=layout)
    for own, other in zip(*found, strict=True):
        assert tiny.relative_error(own, other) < 1e-12


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_parameter_gradients_of_each_row(layout: torch.memory_format) -> None:
    ours, theirs, x = both(layout)
    g = torch.randn_like(x)
    _, mean, rstd = forward(x, ours.weight, ours.bias, 4, ours.eps)
    _, weighted, plain = backward(g, x, mean, rstd, ours.weight)
    for row in range(len(x)):
        theirs.zero_grad()
        theirs(x[row : row + 1].contiguous()).backward(g[row : row + 1].contiguous())
        assert tiny.relative_error(weighted[row], theirs.weight.grad) < 1e-12
        assert tiny.relative_error(plain[row], theirs.bias.grad) < 1e-12


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_keeps_its_digits_where_the_mean_is_far_from_zero(layout: torch.memory_format) -> None:
    ours, _, x = both(layout, offset=100.0)
    g = torch.randn_like(x)
    _, mean, rstd = forward(x, ours.weight, ours.bias, 4, ours.eps)
    expected = backward(g, x, mean, rstd, ours.weight)
    single = ours.float()
    _, mean, rstd = forward(x.float(), single.weight, single.bias, 4, single.eps)
    found = backward(g.float(), x.float(), mean, rstd, single.weight)
    for own, other in zip(found, expected, strict=True):
        assert tiny.relative_error(own.double(), other) < 3e-5
    # Rounding x to float32 alone, at a mean a hundred deviations away, costs about 1e-5.


def test_rows_do_not_mix_and_one_pixel_is_enough() -> None:
    ours, theirs, x = both(torch.channels_last)
    assert torch.equal(ours(x)[2:3].contiguous(), ours(x[2:3]).contiguous())
    one = torch.randn(2, 12, 1, 1, dtype=torch.float64)
    assert tiny.relative_error(ours(one), theirs(one)) < 1e-12
