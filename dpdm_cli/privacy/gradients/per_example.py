"""One gradient for each example, from rows that are K copies of it.

Each layer's own backward pass contracts the parameter gradient over the K copies of an example (and over height
and width) straight into [B, ...]; gradients of single copies never exist, and the ordinary gradient, summed over
the batch, is never computed. So a private backward pass costs the arithmetic of an ordinary one.

Rows are example-major: row b*K + k is copy k of example b. Every layer must treat rows independently; one that
couples them (batch normalisation) is refused, since its gradients belong to no single row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from dpdm_cli.privacy.gradients import layer_rules
from dpdm_cli.privacy.gradients.layer_rules import Call, LayerRule

Losses = Callable[[Tensor], Tensor]
"""From indices of examples [b] to their losses [b]; the loss of one must not depend on the others.
With several workers it is called by their threads."""

_this_thread = threading.local()


class PerExampleGradients:
    """Per-example gradients of all trainable parameters of a network.

    The network's layers are instrumented here, once: from now on each asks at every call whether its thread is in a
    pass of `__call__`, and else does what it did before.

    Args:
        network: a module whose trainable parameters belong to Conv2d, Linear, GroupNorm or Embedding layers.

    Attributes:
        parameters, names: of all that is differentiated.
        size: P, their elements.

    Raises:
        TypeError: a trainable parameter lies elsewhere, a layer couples rows, or two layers share a parameter. Any
            of these would leave a gradient outside the clip or without an owner.
    """

    def __init__(self, network: nn.Module) -> None:
        self.parameters: list[nn.Parameter] = []
        self.names: list[str] = []
        self.size = 0
        self._layers: dict[nn.Module, _Layer] = {}
        for name, module in network.named_modules():
            rule = layer_rules.rule_for(module, name)
            if rule is None:
                continue
            columns = {}
            for parameter_name, parameter in module.named_parameters(recurse=False):
                if not parameter.requires_grad:
                    continue
                if any(parameter is known for known in self.parameters):
                    raise TypeError(f"{name}.{parameter_name} is shared between two layers")
                columns[parameter_name] = slice(self.size, self.size + parameter.numel())
                self.size += parameter.numel()
                self.parameters.append(parameter)
                self.names.append(f"{name}.{parameter_name}")
            self._layers[module] = _Layer(rule, columns)
        for module in self._layers:
            module.forward = MethodType(_forward, module)

    def __call__(self, losses: Losses, indices: Tensor, out: Tensor | None = None) -> Tensor:
        """Run the losses of some examples forward and backward.

        Args:
            losses: computes one loss for each example by calling the network on rows in example-major order.
            indices: of B >= 1 examples, [B]; handed to `losses`.
            out: [B or more, P] of the result's dtype and device, to be overwritten; by default new memory is taken.

        Returns:
            [B, P], float32 (float64 for a float64 network): row b is the gradient of loss b, parameters in the
            order of `parameters`, the elements of each in their order in memory. A parameter that took no part has
            gradient zero. `.grad` is never touched. Several threads may call at the same time.

        Raises:
            ValueError: `losses` gives another shape than [B].
        """
        examples = len(indices)
        gradients = (self.buffer(examples) if out is None else out)[:examples]
        this_pass = _Pass(self._layers, gradients, set())
        _this_thread.current = this_pass
        try:
            values = losses(indices)
        finally:
            _this_thread.current = None
        if values.shape != (examples,):
            raise ValueError(
                f"expected one loss for each of {examples} examples, got {tuple(values.shape)}"
            )
        values.sum().backward()  # type: ignore[no-untyped-call]
        for module, layer in self._layers.items():
            if module not in this_pass.written:
                for columns in layer.columns.values():
                    gradients[:, columns] = 0.0
        return gradients

    def buffer(self, examples: int) -> Tensor:
        """Memory for the gradients of so many examples, [B, P]."""
        reference = self.parameters[0]
        dtype = torch.promote_types(reference.dtype, torch.float32)
        return torch.empty(examples, self.size, dtype=dtype, device=reference.device)

    def assign(self, gradient: Tensor) -> None:
        """Lay a flat gradient [P], in the order of a row of `__call__`, out as the `.grad` of each parameter."""
        pieces = torch.split(gradient, [p.numel() for p in self.parameters])
        for parameter, piece in zip(self.parameters, pieces, strict=True):
            laid_out = piece.as_strided(parameter.shape, parameter.stride(), piece.storage_offset())
            parameter.grad = laid_out.to(parameter.dtype)


@dataclass(frozen=True)
class _Layer:
    """How a layer is differentiated, and which columns of a pass's gradients belong to its parameters."""

    rule: LayerRule
    columns: Mapping[str, slice]


@dataclass(frozen=True)
class _Pass:
    """One pass over some examples: where it writes their gradients [B, P], and which layers have."""

    layers: Mapping[nn.Module, _Layer]
    gradients: Tensor
    written: set[nn.Module]

    def place_of(self, module: nn.Module) -> dict[str, Tensor]:
        """Memory for the gradients of a layer's parameters, [B, *shape], each in its parameter's memory order."""
        examples, along_examples = len(self.gradients), self.gradients.stride(0)
        first = self.gradients.storage_offset()
        place = {}
        for name, columns in self.layers[module].columns.items():
            parameter: Tensor = getattr(module, name)
            place[name] = self.gradients.as_strided(
                (examples, *parameter.shape),
                (along_examples, *parameter.stride()),
                first + columns.start,
            )
        return place


def _forward(module: Any, x: Tensor) -> Tensor:
    """In the place of a layer's own `forward`."""
    this_pass: _Pass | None = getattr(_this_thread, "current", None)
    if this_pass is None or module not in this_pass.layers:
        ordinary: Tensor = type(module).forward(module, x)
        return ordinary
    rule = this_pass.layers[module].rule
    weight, bias = module.weight, getattr(module, "bias", None)
    if torch.is_autocast_enabled(x.device.type) and x.is_floating_point():
        # Inside an autograd Function autocast would hide the dtype that backward needs.
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if rule.autocasts else torch.float32
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    recorded: Tensor = _RecordedLayer.apply(x, weight, bias, module, this_pass)
    return recorded


class _RecordedLayer(torch.autograd.Function):
    """A layer whose backward writes per-example parameter gradients and returns only the input's."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        module: nn.Module,
        this_pass: _Pass,
    ) -> Tensor:
        y, extra = this_pass.layers[module].rule.forward(module, x, weight, bias)
        ctx.save_for_backward(x, weight, *extra)
        ctx.layer = module, this_pass
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grad_outputs
        x, weight, *extra = ctx.saved_tensors
        module, this_pass = ctx.layer
        examples = len(this_pass.gradients)
        if g.shape[0] % examples:
            raise ValueError(f"{g.shape[0]} rows are not a multiple of {examples} examples")
        call = Call(module, x, weight, extra, wants_x=ctx.needs_input_grad[0])
        rule, place = this_pass.layers[module].rule, this_pass.place_of(module)
        if module not in this_pass.written:
            gx = rule.backward(call, g, place)
            this_pass.written.add(module)
        else:  # called more than once: gradients add up
            more = {name: torch.empty_like(memory) for name, memory in place.items()}
            gx = rule.backward(call, g, more)
            for name, memory in place.items():
                memory.add_(more[name])
        return gx, None, None, None, None
