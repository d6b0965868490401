"""For each kind of layer: its forward, its input's gradient and its per-example parameter gradients.

Symbols: R = B*K rows, B examples of K copies each, rows example-major; x the layer's input, g the gradient of its
output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpdm_cli.compute import group_norm
from dpdm_cli.privacy.gradients import convolution


class LayerRule(Protocol):
    """How one kind of layer is differentiated."""

    autocasts: bool  # whether the layer runs in the autocast dtype

    def forward(
        self, module: Any, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """The layer's output and what its backward needs beside x and weight."""

    def backward(self, call: Call, g: Tensor, into: Mapping[str, Tensor]) -> Tensor | None:
        """Differentiate a call, given the gradient of its output.

        Args:
            into: memory [B, *shape] for the gradient of each parameter, contracted over the copies. It holds nothing
                yet. Its innermost order is that of the parameter. A parameter that has none is frozen.

        Returns:
            the gradient of x, [R, ...]; None where x takes none.
        """


@dataclass(frozen=True)
class Call:
    """One call of a layer, as its backward finds it.

    Attributes:
        module: the layer.
        x, weight: as they went into it.
        extra: what its rule's `forward` kept.
        wants_x: whether the gradient of x is asked for.
    """

    module: Any
    x: Tensor
    weight: Tensor
    extra: Sequence[Tensor]
    wants_x: bool


class Conv2dRule:
    """Convolution without groups."""

    autocasts = True

    def forward(
        self, module: Any, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        y = F.conv2d(x, weight, bias, module.stride, module.padding, module.dilation)
        return y, ()

    def backward(self, call: Call, g: Tensor, into: Mapping[str, Tensor]) -> Tensor | None:
        module, x, weight = call.module, call.x, call.weight
        if "weight" in into:
            convolution.weight_gradients(module, g, x, weight, into["weight"])
        if "bias" in into:
            _sum_copies(g.sum((2, 3)), into["bias"])
        if not call.wants_x:
            return None
        wanted = (True, False, False)
        return convolution.convolution_backward(module, g, x, weight, 1, wanted)[0]


class LinearRule:
    """Affine map of the last dimension."""

    autocasts = True

    def forward(
        self, module: Any, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        return F.linear(x, weight, bias), ()

    def backward(self, call: Call, g: Tensor, into: Mapping[str, Tensor]) -> Tensor | None:
        examples = _examples(into)
        rows_g = g.reshape(examples, -1, g.shape[-1])
        rows_x = call.x.reshape(examples, -1, call.x.shape[-1])
        if "weight" in into:
            _multiply(rows_g.transpose(1, 2), rows_x, into["weight"])
        if "bias" in into:
            into["bias"].copy_(rows_g.sum(1))
        return g @ call.weight if call.wants_x else None


class GroupNormRule:
    """Group normalisation: statistics belong to one row, so rows stay independent."""

    autocasts = False

    def forward(
        self, module: Any, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        y, mean, rstd = group_norm.forward(x, weight, bias, module.num_groups, module.eps)
        return y, (mean, rstd)

    def backward(self, call: Call, g: Tensor, into: Mapping[str, Tensor]) -> Tensor:
        mean, rstd = call.extra
        gx, of_weight, of_bias = group_norm.backward(g, call.x, mean, rstd, call.weight)
        if "weight" in into:
            _sum_copies(of_weight, into["weight"])
        if "bias" in into:
            _sum_copies(of_bias, into["bias"])
        return gx


class EmbeddingRule:
    """Table look-up: each row's gradient is added to the line it looked up."""

    autocasts = False

    def forward(
        self, module: Any, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        return F.embedding(x, weight), ()

    def backward(self, call: Call, g: Tensor, into: Mapping[str, Tensor]) -> None:
        examples = len(into["weight"])
        lines, width = call.weight.shape
        owner = torch.arange(examples, device=g.device).view(-1, 1)
        target = (call.x.reshape(examples, -1) + owner * lines).flatten()
        table = torch.zeros(examples * lines, width, dtype=call.weight.dtype, device=g.device)
        table.index_add_(0, target, g.reshape(-1, width).to(table.dtype))
        into["weight"].copy_(table.view(examples, lines, width))


_RULES: dict[type[nn.Module], LayerRule] = {
    nn.Conv2d: Conv2dRule(),
    nn.Linear: LinearRule(),
    nn.GroupNorm: GroupNormRule(),
    group_norm.GroupNorm: GroupNormRule(),
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
