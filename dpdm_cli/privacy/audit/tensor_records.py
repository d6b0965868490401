"""Loud records whose gradients are known: one for each tensor of a network, in that tensor alone, and one in all.

The gradient covers every element of its tensor with the same magnitude, in a pattern of signs that is the tensor's own:
a part that is left out is detected, and so are swapped tensors. Records of different tensors are orthogonal: in one
batch, the effect of each can still be measured separately.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dpdm_cli.privacy.audit import layer_reads
from dpdm_cli.privacy.gradients.per_example import PerExampleGradients

_BITS = 16


class TensorRecords:
    """Record i below T sits in tensor i, record T in all T tensors with equal energy.

    Args:
        network: as for `PerExampleGradients`; what its weights are does not matter.
        loudness: norm of each record's gradient.

    Attributes:
        names: of the tensors, T of them.
        size: P, their elements.
    """

    def __init__(self, network: nn.Module, loudness: float) -> None:
        per_example = PerExampleGradients(network)
        self.names, self.size = per_example.names, per_example.size
        self._parameters = per_example.parameters
        self._layers = layer_reads.place_of(network, per_example.parameters)
        self._loudness = loudness

    def losses(self, indices: Tensor) -> Tensor:
        """Losses [b] of some records."""
        records = indices.tolist()
        total = torch.zeros(len(records), device=indices.device)
        for layer, tensors in self._layers.items():
            weight, bias = (
                self._in_tensor(records, tensors.get(name)) for name in ("weight", "bias")
            )
            if weight.any() or bias.any():
                ones = torch.ones(
                    len(records), *layer_reads.inputs_of(layer), device=indices.device
                )
                total = total + layer_reads.read(
                    layer,
                    ones,
                    (weight[:, None] * self._signs(layer, "weight")).to(indices.device),
                    (bias[:, None] * self._signs(layer, "bias")).to(indices.device),
                )
        return total

    def directions(self) -> list[Tensor]:
        """For each tensor the gradient of its record, flat and of norm 1, float64."""
        found = [torch.empty(0)] * len(self.names)
        for layer, tensors in self._layers.items():
            ones = torch.ones(math.prod(layer_reads.inputs_of(layer)))
            for name, tensor in tensors.items():
                signs = self._signs(layer, name)
                if name == "weight":
                    by_line = isinstance(layer, nn.Embedding)
                    signs = torch.outer(ones, signs) if by_line else torch.outer(signs, ones)
                found[tensor] = signs.flatten().double() / math.sqrt(signs.numel())
        return found

    def _in_tensor(self, records: list[int], tensor: int | None) -> Tensor:
        """The magnitude of each record's gradient in the elements of a tensor, [b]."""
        if tensor is None:
            return torch.zeros(len(records))
        everywhere = len(self.names)
        shares = {tensor: 1.0, everywhere: 1 / math.sqrt(everywhere)}
        each = self._loudness / math.sqrt(self._parameters[tensor].numel())
        return torch.tensor([each * shares.get(record, 0.0) for record in records])

    def _signs(self, layer: nn.Module, name: str) -> Tensor:
        """+1 and -1 for each output of a layer: the bits of the tensor's number, over and over."""
        places = torch.arange(layer_reads.outputs_of(layer)) % _BITS
        number = torch.tensor(self._layers[layer].get(name, 0))
        return 1.0 - 2.0 * (number >> places & 1)
