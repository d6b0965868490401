"""Losses that are sums of a network's own weights, read through its layers, so that their gradients are known.

Such a gradient takes the same path as any other: layer backward, mean over the copies, clip, sum, noise, divisor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def place_of(network: nn.Module, parameters: list[nn.Parameter]) -> dict[nn.Module, dict[str, int]]:
    """For each layer its parameters by name, and which of `parameters` they are."""
    number = {id(parameter): index for index, parameter in enumerate(parameters)}
    found = {
        module: {
            name: number[id(parameter)]
            for name, parameter in module.named_parameters(recurse=False)
            if id(parameter) in number
        }
        for module in network.modules()
    }
    return {module: names for module, names in found.items() if names}


def inputs_of(module: nn.Module) -> tuple[int, ...]:
    """The shape of `inputs` in `read`; its outputs are the weight's first dimension, of an embedding the last."""
    shape = tuple(_weight(module).shape)
    return shape[:1] if isinstance(module, nn.Embedding) else shape[1:]


def outputs_of(module: nn.Module) -> int:
    """The length of `outputs` and `biases` in `read`."""
    return int(_weight(module).shape[-1 if isinstance(module, nn.Embedding) else 0])


def read(module: nn.Module, inputs: Tensor, outputs: Tensor, biases: Tensor) -> Tensor:
    """For each row r the sum of weight[o, i] outputs[r, o] inputs[r, i] and of bias[o] biases[r, o]: [R].

    The layer is called on `inputs` and on zeros: the difference is the weight's part, the second the bias's. So the
    gradient of the sum is outputs[r] times inputs[r] in the weight and biases[r] in the bias, and nothing elsewhere.

    Args:
        module: a convolution, a linear layer, a group normalisation or an embedding.
        inputs: [R, *inputs_of(module)].
        outputs, biases: [R, outputs_of(module)].

    Raises:
        TypeError: a layer of another kind.
    """
    layer: Any = module
    if isinstance(module, nn.Embedding):
        lines = torch.arange(module.num_embeddings, device=inputs.device)
        looked_up = layer(lines.expand(len(inputs), -1))  # [R, lines, width]
        lines_read: Tensor = torch.einsum("rlw,rl,rw->r", looked_up, inputs, outputs)
        return lines_read
    if isinstance(module, nn.GroupNorm):
        # Two pixels, +1 and -1 in every channel: normalised they stay (nearly) so, and weight and bias are half the
        # difference and half the sum of what comes out.
        pixels = torch.tensor([1.0, -1.0], device=outputs.device).view(1, 1, 2, 1)
        y = layer(pixels.expand(len(outputs), module.num_channels, 2, 1).contiguous())[..., 0]
        half_difference, half_sum = (y[..., 0] - y[..., 1]) / 2, (y[..., 0] + y[..., 1]) / 2
        channels: Tensor = half_difference * inputs[:, None] * outputs + half_sum * biases
        return channels.sum(1)
    if isinstance(module, nn.Conv2d):
        height, width = (int(padding) for padding in module.padding)
        with_weight, without = (
            layer(x)[:, :, height, width] for x in (inputs, torch.zeros_like(inputs))
        )
    elif isinstance(module, nn.Linear):
        with_weight, without = layer(inputs), layer(torch.zeros_like(inputs))
    else:
        raise TypeError(f"no weights can be read from a {type(module).__name__}")
    products: Tensor = (with_weight - without) * outputs + without * biases
    return products.sum(1)


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
