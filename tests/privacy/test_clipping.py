"""The clip: how far one record moves the sum, in floating point too."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny
from torch.utils._python_dispatch import TorchDispatchMode

from dpdm_cli.privacy.clipping import clip_factors, clipped_sum


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    clip=st.floats(1e-3, 1e3),
    scale=st.floats(1e-8, 1e8),
    count=st.integers(1, 9),
)
def test_one_record_moves_the_sum_by_at_most_the_clip_norm(
    seed: int, clip: float, scale: float, count: int
) -> None:
    gradients = scale * torch.randn(count, 50, generator=torch.Generator().manual_seed(seed))
    everyone = clipped_sum(gradients.clone(), clip)
    without = clipped_sum(gradients[1:].clone(), clip)
    # float32 sums of up to nine records of norm C
    assert (everyone - without).norm() <= clip * (1 + 1e-5)


def test_gradients_within_the_clip_norm_are_summed_as_they_are() -> None:
    gradients = torch.randn(4, 30) * 0.01
    assert tiny.relative_error(clipped_sum(gradients.clone(), 1.0), gradients.sum(0)) < 1e-6


def test_a_large_gradient_keeps_its_direction_and_gets_the_clip_norm() -> None:
    gradient = torch.randn(1, 30) * 100
    clipped = clipped_sum(gradient.clone(), 2.0)
    assert clipped.norm() == pytest.approx(2.0, rel=1e-4)
    assert tiny.relative_error(clipped, 2.0 * gradient[0] / gradient.norm()) < 1e-4


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, 3e38])
def test_a_record_that_is_not_finite_contributes_zero_and_leaves_the_others_alone(
    value: float,
) -> None:
    gradients = torch.randn(5, 40) * 100
    expected = clipped_sum(gradients[1:].clone(), 1.0)
    gradients[0] *= 1e3
    gradients[0, 3] = value
    assert torch.equal(clipped_sum(gradients, 1.0), expected)


def test_no_records_sum_to_zero() -> None:
    assert torch.equal(clipped_sum(torch.empty(0, 7), 1.0), torch.zeros(7))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradients_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="float32"):
        clipped_sum(torch.zeros(2, 3, dtype=dtype), 1.0)


def test_correlated_records_in_bfloat16_would_break_the_bound_that_float32_keeps() -> None:
    # 512 nearly parallel gradients: removing one moves many coordinates over a rounding step of bf16.
    base = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).sign()
    spread = torch.randn(512, 100_000, generator=torch.Generator().manual_seed(1))
    gradients = base + 0.1 * spread
    everyone, without = clipped_sum(gradients.clone(), 1.0), clipped_sum(gradients[1:].clone(), 1.0)
    assert (everyone - without).norm() <= 1 + 1e-4
    assert (everyone.bfloat16().float() - without.bfloat16().float()).norm() > 1.2


class Operations(TorchDispatchMode):
    """The names of the operations that are called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def test_no_device_may_round_what_was_clipped() -> None:
    # Products are what CUDA rounds to TF32, as `set_precision` tells it to for speed.
    with Operations() as called:
        clipped_sum(torch.empty(8, 100, device="meta"), 1.0)
    assert "sum" in called.names
    assert not called.names & {"mm", "mv", "bmm", "addmm", "addmv", "baddbmm", "dot", "vdot"}


def test_rounding_to_tf32_after_the_clip_would_break_the_bound() -> None:
    rows = torch.full((1, 4096), 1.0 + 2**-11 + 2**-20)  # rounds up to 1 + 2^-10
    tf32 = ((rows.view(torch.int32) + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)
    norm = rows.norm()
    assert clipped_sum(rows.clone(), 1.0).norm() <= 1
    assert (tf32 / norm).norm() > 1 + 4e-4


def test_the_clip_holds_to_the_last_digit_for_millions_of_parameters() -> None:
    torch.manual_seed(0)
    # Of uneven sizes, as gradients are: where a sum of squares in float32 loses most.
    gradients = torch.randn(3, 2_000_000) * torch.rand(2_000_000) ** 4
    for row in gradients:
        clipped = clipped_sum(row[None].clone(), 0.5)
        assert 0.5 * (1 - 2e-5) < float(clipped.double().norm()) <= 0.5


@pytest.mark.parametrize("size", [1, 2047, 2048, 2049, 16_384, 267_908])
def test_equal_elements_whose_squares_round_alike_keep_to_the_clip_norm(size: int) -> None:
    # Added up by the thousand in float32 such squares are off by more than the slack.
    values = torch.linspace(1, 2, 60, dtype=torch.float64)
    gradients = (7 * values / math.sqrt(size)).float()[:, None].expand(-1, size)
    factors = clip_factors(gradients.clone(), 1.0)
    norms = gradients.double().norm(dim=1) * factors.double()
    assert float(norms.max()) <= 1.0
    assert float(norms.min()) > 1 - 2e-5
