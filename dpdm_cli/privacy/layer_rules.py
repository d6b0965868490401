"""For each kind of layer: its forward, its input's gradient and its per-example parameter gradients.

Symbols: R = B*K rows, B examples of K copies each, rows example-major; x the layer's input, g the gradient of its
output, C channels, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PATCH_BYTES = 4 << 20


class LayerRule(Protocol):
    """How one kind of layer is differentiated."""

    autocasts: bool  # whether the layer runs in the autocast dtype

    def forward(
        self, module: Any, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """The layer's output and what its backward needs beside x and weight."""

    def input_gradient(
        self, module: Any, g: Tensor, x: Tensor, weight: Tensor, extra: Sequence[Tensor]
    ) -> Tensor | None:
        """Gradient of x, [R, ...]."""

    def parameter_gradients(
        self,
        module: Any,
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        extra: Sequence[Tensor],
        into: Mapping[str, Tensor],
    ) -> None:
        """Write the gradients [B, *shape] of each parameter, contracted over the copies, into memory of that shape.

        The memory holds nothing yet. Its innermost order is that of the parameter. A parameter that has none is frozen.
        """


class Conv2dRule:
    """Convolution without groups: the weight gradient of an example is a convolution over its own rows."""

    autocasts = True

    def forward(
        self, module: Any, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        y = F.conv2d(x, weight, bias, module.stride, module.padding, module.dilation)
        return y, ()

    def input_gradient(
        self, module: Any, g: Tensor, x: Tensor, weight: Tensor, extra: Sequence[Tensor]
    ) -> Tensor:
        gradient: Tensor = _convolution_backward(module, g, x, weight, 1, (True, False, False))[0]
        return gradient

    def parameter_gradients(
        self,
        module: Any,
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        extra: Sequence[Tensor],
        into: Mapping[str, Tensor],
    ) -> None:
        copies = g.shape[0] // _examples(into)
        # Many copies: a convolution an example is as fast as any, and rearranges nothing. Few: its overhead must be
        # spread, on a CPU by products of unfolded patches, on a GPU by one grouped convolution.
        if copies > 4:
            by_example = _looped_weight_gradients
        elif x.device.type == "cpu":
            by_example = _multiplied_weight_gradients
        else:
            by_example = _grouped_weight_gradients
        if "weight" in into:
            by_example(module, g, x, weight, into["weight"])
        if "bias" in into:
            _sum_copies(g.sum((2, 3)), into["bias"])


class LinearRule:
    """Affine map of the last dimension."""

    autocasts = True

    def forward(
        self, module: Any, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        return F.linear(x, weight, bias), ()

    def input_gradient(
        self, module: Any, g: Tensor, x: Tensor, weight: Tensor, extra: Sequence[Tensor]
    ) -> Tensor:
        return g @ weight

    def parameter_gradients(
        self,
        module: Any,
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        extra: Sequence[Tensor],
        into: Mapping[str, Tensor],
    ) -> None:
        examples = _examples(into)
        rows_g = g.reshape(examples, -1, g.shape[-1])
        rows_x = x.reshape(examples, -1, x.shape[-1])
        if "weight" in into:
            _multiply(rows_g.transpose(1, 2), rows_x, into["weight"])
        if "bias" in into:
            into["bias"].copy_(rows_g.sum(1))


class GroupNormRule:
    """Group normalisation: statistics belong to one row, so rows stay independent."""

    autocasts = False

    def forward(
        self, module: Any, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        rows, channels = x.shape[:2]
        y, mean, rstd = torch.native_group_norm(
            _dense(x),
            weight,
            bias,
            rows,
            channels,
            x[0, 0].numel(),
            module.num_groups,
            module.eps,
        )
        return y, (mean, rstd)

    def input_gradient(
        self, module: Any, g: Tensor, x: Tensor, weight: Tensor, extra: Sequence[Tensor]
    ) -> Tensor:
        mean, rstd = extra
        rows, channels = x.shape[:2]
        gradient: Tensor = torch.ops.aten.native_group_norm_backward(
            _dense(g),
            _dense(x),
            mean,
            rstd,
            weight,
            rows,
            channels,
            x[0, 0].numel(),
            module.num_groups,
            (True, False, False),
        )[0]
        return gradient

    def parameter_gradients(
        self,
        module: Any,
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        extra: Sequence[Tensor],
        into: Mapping[str, Tensor],
    ) -> None:
        rows, channels = x.shape[:2]
        mean, rstd = (
            s.view(rows, -1, 1)
            .expand(-1, -1, channels // module.num_groups)
            .reshape(rows, channels, 1, 1)
            for s in extra
        )
        # Normalised before it is summed: sum(g x) - mean sum(g) would lose digits where |mean| >> std.
        weighted = (x - mean).mul_(rstd).mul_(g)
        if "weight" in into:
            _sum_copies(weighted.sum((2, 3)), into["weight"])
        if "bias" in into:
            _sum_copies(g.sum((2, 3)), into["bias"])


class EmbeddingRule:
    """Table look-up: each row's gradient is added to the line it looked up."""

    autocasts = False

    def forward(
        self, module: Any, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        return F.embedding(x, weight), ()

    def input_gradient(
        self, module: Any, g: Tensor, x: Tensor, weight: Tensor, extra: Sequence[Tensor]
    ) -> None:
        return None

    def parameter_gradients(
        self,
        module: Any,
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        extra: Sequence[Tensor],
        into: Mapping[str, Tensor],
    ) -> None:
        examples = len(into["weight"])
        lines, width = weight.shape
        owner = torch.arange(examples, device=x.device).view(-1, 1)
        target = (x.reshape(examples, -1) + owner * lines).flatten()
        table = torch.zeros(examples * lines, width, dtype=weight.dtype, device=g.device)
        table.index_add_(0, target, g.reshape(-1, width).to(table.dtype))
        into["weight"].copy_(table.view(examples, lines, width))


_RULES: dict[type[nn.Module], LayerRule] = {
    nn.Conv2d: Conv2dRule(),
    nn.Linear: LinearRule(),
    nn.GroupNorm: GroupNormRule(),
    nn.Embedding: EmbeddingRule(),
}


def rule_for(module: nn.Module, name: str) -> LayerRule | None:
    """The rule of a layer, None for one that has no parameters of its own.

    Raises:
        TypeError: the layer has trainable parameters and no rule, options its rule does not know, or it couples the
            rows of a batch.
    """
    if isinstance(module, nn.modules.batchnorm._NormBase):
        raise TypeError(f"{name}: {type(module).__name__} mixes the examples of a batch")
    if not any(p.requires_grad for p in module.parameters(recurse=False)):
        return None
    rule = _RULES.get(type(module))
    if rule is None:
        raise TypeError(f"{name}: no per-example gradient for {type(module).__name__}")
    if isinstance(module, nn.Conv2d) and (module.groups != 1 or module.padding_mode != "zeros"):
        raise TypeError(f"{name}: grouped convolutions and padding modes are not supported")
    if isinstance(module, nn.Conv2d) and isinstance(module.padding, str):
        raise TypeError(f"{name}: give the padding as numbers")
    if isinstance(module, nn.Embedding) and (
        module.padding_idx is not None or module.max_norm is not None or module.scale_grad_by_freq
    ):
        raise TypeError(f"{name}: embedding options beyond the table's size are not supported")
    return rule


def _convolution_backward(
    module: Any,
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    groups: int,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        g,
        x,
        weight,
        None,
        module.stride,
        module.padding,
        module.dilation,
        False,
        (0, 0),
        groups,
        wanted,
    )
    return result


def _looped_weight_gradients(
    module: Any, g: Tensor, x: Tensor, weight: Tensor, into: Tensor
) -> None:
    """Into [B, *weight.shape], one convolution an example."""
    copies = g.shape[0] // len(into)
    for gradient, g_one, x_one in zip(
        into, torch.split(g, copies), torch.split(x, copies), strict=True
    ):
        wanted = (False, True, False)
        gradient.copy_(_convolution_backward(module, g_one, x_one, weight, 1, wanted)[1])


def _grouped_weight_gradients(
    module: Any, g: Tensor, x: Tensor, weight: Tensor, into: Tensor
) -> None:
    """Into [B, *weight.shape], one convolution whose groups are the examples."""
    examples = len(into)

    def side_by_side(rows: Tensor) -> Tensor:  # [B*K, C, H, W] -> [K, B*C, H, W]
        by_example = rows.reshape(examples, -1, *rows.shape[1:])
        return by_example.transpose(0, 1).flatten(1, 2).contiguous()

    shape = weight.new_empty(examples * weight.shape[0], *weight.shape[1:])
    gradient = _convolution_backward(
        module, side_by_side(g), side_by_side(x), shape, examples, (False, True, False)
    )[1]
    into.copy_(gradient.view(into.shape))


def _multiplied_weight_gradients(
    module: Any, g: Tensor, x: Tensor, weight: Tensor, into: Tensor
) -> None:
    """Into [B, *weight.shape], output gradients times the patches of the input they came from."""
    examples, outputs = into.shape[:2]
    copies = g.shape[0] // examples
    g_last, x_last = (t.permute(0, 2, 3, 1).contiguous() for t in (g, x))
    # Products come in the order [O, *kernel, I], which is that of a parameter in channels-last order.
    in_place = weight.is_contiguous(memory_format=torch.channels_last) and g.dtype == into.dtype
    last_order = into.permute(0, 1, 3, 4, 2)
    products = last_order if in_place else torch.empty(last_order.shape, dtype=g.dtype)
    flat = products.view(examples, outputs, -1)
    # So many examples at a time that their patches stay in the cache between writing and reading.
    patch_bytes = g_last[:copies, ..., 0].numel() * flat.shape[2] * g.element_size()
    chunk = max(1, _PATCH_BYTES // patch_bytes)
    for first in range(0, examples, chunk):
        last = min(first + chunk, examples)
        rows = slice(first * copies, last * copies)
        patches = _patches(module, x_last[rows], g_last.shape[1:3])
        torch.bmm(
            g_last[rows].view(last - first, -1, outputs).transpose(1, 2),
            patches.view(last - first, -1, flat.shape[2]),
            out=flat[first:last],
        )
    if not in_place:
        last_order.copy_(products)


def _patches(module: Any, x_last: Tensor, out: Sequence[int]) -> Tensor:
    """The inputs under the kernel at every place: [R, H, W, C] -> [R * H_out * W_out, kernel * C]."""
    (pad_h, pad_w), (step_h, step_w) = module.padding, module.stride
    padded = F.pad(x_last, (0, 0, pad_w, pad_w, pad_h, pad_h))
    rows, _, _, channels = padded.shape
    along_r, along_h, along_w, _ = padded.stride()
    shape = (rows, *out, *module.kernel_size, channels)
    strides = (
        along_r,
        along_h * step_h,
        along_w * step_w,
        along_h * module.dilation[0],
        along_w * module.dilation[1],
        1,
    )
    return padded.as_strided(shape, strides).reshape(rows * out[0] * out[1], -1)


def _examples(into: Mapping[str, Tensor]) -> int:
    return len(next(iter(into.values())))


def _multiply(left: Tensor, right: Tensor, into: Tensor) -> None:
    """Batched product into memory that may be wider than the factors."""
    if left.dtype == into.dtype:
        torch.bmm(left, right, out=into)
    else:
        into.copy_(left @ right)


def _sum_copies(rows: Tensor, into: Tensor) -> None:
    """[B*K, ...] -> [B, ...]."""
    into.copy_(rows.view(len(into), -1, *rows.shape[1:]).sum(1))


def _dense(x: Tensor) -> Tensor:
    """In channels-last order where it is so already, else in the usual order."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()
