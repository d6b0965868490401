"""One gradient for each example, from rows that are K copies of it.

Each layer's own backward pass contracts the parameter gradient over the K copies of an example (and over height
and width) straight into [B, ...]; gradients of single copies never exist, and the ordinary gradient, summed over
the batch, is never computed. So a private backward pass costs the arithmetic of an ordinary one.

Rows are example-major: row b*K + k is copy k of example b. Every layer must treat rows independently; one that
couples them (batch normalisation) is refused, since its gradients have no owner.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dpdm_cli.privacy.gradients import layer_rules
from dpdm_cli.privacy.gradients.layer_rules import Call, LayerRule


class PerExampleGradients:
    """Per-example gradients of all trainable parameters of a network.

    Args:
        network: a module whose trainable parameters belong to Conv2d, Linear, GroupNorm or Embedding layers.

    Raises:
        TypeError: a trainable parameter lies elsewhere, a layer couples rows, or two layers share a parameter. Any
            of these would leave a gradient outside the clip or without an owner.
    """

    def __init__(self, network: nn.Module) -> None:
        self.parameters: list[nn.Parameter] = []
        self.names: list[str] = []
        self._running = 0
        self._patching = threading.Lock()
        self._current = threading.local()
        self._slots: list[tuple[nn.Module, LayerRule, dict[str, slice]]] = []
        self.size = 0
        for name, module in network.named_modules():
            rule = layer_rules.rule_for(module, name)
            slots = {}
            for parameter_name, parameter in module.named_parameters(recurse=False):
                if not parameter.requires_grad:
                    continue
                if any(parameter is known for known in self.parameters):
                    raise TypeError(f"{name}.{parameter_name} is shared between two layers")
                slots[parameter_name] = slice(self.size, self.size + parameter.numel())
                self.size += parameter.numel()
                self.parameters.append(parameter)
                self.names.append(f"{name}.{parameter_name}")
            if slots:
                assert rule is not None  # rule_for refuses parameters it has no rule for
                self._slots.append((module, rule, slots))

    def __call__(
        self, losses: Callable[[], Tensor], examples: int, out: Tensor | None = None
    ) -> Tensor:
        """Run `losses` forward and backward.

        Args:
            losses: computes one loss for each example, [B], by calling the network on rows in example-major order.
            examples: B >= 1.
            out: [B or more, P] of the result's dtype and device, to be overwritten; by default new memory is taken.

        Returns:
            [B, P], float32 (float64 for a float64 network): row b is the gradient of loss b, parameters in the
            order of `parameters`, the elements of each in their order in memory. A parameter that took no part has
            gradient zero. `.grad` is never touched. Several threads may call at the same time.

        Raises:
            ValueError: `losses` gives another shape than [B].
        """
        record = _Record((self.buffer(examples) if out is None else out)[:examples])
        with self._recording(record):
            values = losses()
            if values.shape != (examples,):
                raise ValueError(
                    f"expected one loss for each of {examples} examples, got {tuple(values.shape)}"
                )
            values.sum().backward()  # type: ignore[no-untyped-call]
        for _, _, slots in self._slots:
            for slot in slots.values():
                if slot.start not in record.written:
                    record.gradients[:, slot] = 0.0
        return record.gradients

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

    @contextmanager
    def _recording(self, record: _Record) -> Iterator[None]:
        """For the duration, this thread's calls of the layers compute per-example gradients into `record`."""
        with self._patching:
            if not self._running:
                for module, rule, slots in self._slots:
                    module.forward = functools.partial(
                        _recorded_forward, module, rule, slots, self._current
                    )
            self._running += 1
        self._current.record = record
        try:
            yield
        finally:
            del self._current.record
            with self._patching:
                self._running -= 1
                if not self._running:
                    for module, _, _ in self._slots:
                        module.__dict__.pop("forward", None)


@dataclass
class _Record:
    """Where one pass writes its gradients [B, P], and which slots it has written."""

    gradients: Tensor
    written: set[int] = field(default_factory=set)

    @contextmanager
    def columns(
        self, slots: dict[str, slice], parameters: dict[str, Tensor]
    ) -> Iterator[dict[str, Tensor]]:
        """The columns of a layer's parameters as [B, *shape], each in its parameter's memory order, to be written.

        A layer may be called more than once: then fresh memory is given, and added when it is written.
        """
        rows, along_rows, first = (
            len(self.gradients),
            self.gradients.stride(0),
            self.gradients.storage_offset(),
        )
        place = {
            name: self.gradients.as_strided(
                (rows, *parameters[name].shape),
                (along_rows, *parameters[name].stride()),
                first + slot.start,
            )
            for name, slot in slots.items()
        }
        again = any(slot.start in self.written for slot in slots.values())
        given = {name: torch.empty_like(view) for name, view in place.items()} if again else place
        yield given
        for name, slot in slots.items():
            if again:
                place[name].add_(given[name])
            self.written.add(slot.start)


def _recorded_forward(
    module: nn.Module,
    rule: LayerRule,
    slots: dict[str, slice],
    current: threading.local,
    x: Tensor,
) -> Tensor:
    weight, bias = module.weight, getattr(module, "bias", None)
    if torch.is_autocast_enabled(x.device.type) and x.is_floating_point():
        # Inside an autograd Function autocast would hide the dtype that backward needs.
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if rule.autocasts else torch.float32
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    result: Tensor = _RecordedLayer.apply(x, weight, bias, module, rule, slots, current.record)
    return result


class _RecordedLayer(torch.autograd.Function):
    """A layer whose backward writes per-example parameter gradients and returns only the input's."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        module: nn.Module,
        rule: LayerRule,
        slots: dict[str, slice],
        record: _Record,
    ) -> Tensor:
        y, extra = rule.forward(module, x, weight, bias)
        ctx.save_for_backward(x, weight, *extra)
        ctx.layer = module, rule, slots, record
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grad_outputs
        x, weight, *extra = ctx.saved_tensors
        module, rule, slots, record = ctx.layer
        examples = record.gradients.shape[0]
        if g.shape[0] % examples:
            raise ValueError(f"{g.shape[0]} rows are no multiple of {examples} examples")
        parameters = {name: getattr(module, name) for name in slots}
        call = Call(module, x, weight, extra, wants_x=ctx.needs_input_grad[0])
        with record.columns(slots, parameters) as into:
            gx = rule.backward(call, g, into)
        return gx, None, None, None, None, None, None
