"""The weight gradient of a convolution for each example: three ways to the same numbers, and which is the fastest.

An example's gradient is the convolution of its own rows with their output gradients, contracted over copies, height and
width at once. Which way is fastest depends on the device, the layer's shape and the number of copies; it is measured
once, on rows that hold no data, and remembered for the process.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Kernel = Callable[[Any, Tensor, Tensor, Tensor, Tensor], None]
"""(layer, g, x, weight, into): writes the gradients [B, *weight.shape] into memory in the weight's own order."""

Shape = tuple[Any, ...]

_PATCH_BYTES = {True: 4 << 20, False: 256 << 20}  # on a CPU they should stay in its cache
_TRIALS = 2

_chosen: dict[Shape, str] = {}
_probe = threading.local()


def weight_gradients(module: Any, g: Tensor, x: Tensor, weight: Tensor, into: Tensor) -> None:
    """Write the weight gradient of each example.

    Args:
        module: the Conv2d layer.
        g: gradients of its output, [B*K, O, H', W'], example-major.
        x: its input, [B*K, I, H, W].
        weight: [O, I, kh, kw], in the dtype of g and x.
        into: [B, O, I, kh, kw], in the weight's memory order, to be overwritten.
    """
    copies = g.shape[0] // len(into)
    shape = (
        g.device.type,
        g.dtype,
        tuple(g.shape[1:]),
        tuple(x.shape[1:]),
        *(module.kernel_size, module.stride, module.padding, module.dilation),
        copies,
    )
    if getattr(_probe, "active", False):
        _chosen[shape] = _fastest(module, g, x, weight, into)
        _probe.progress()
    KERNELS[_chosen.get(shape) or _usual(copies, g.device)](module, g, x, weight, into)


@contextmanager
def probing(progress: Callable[[], object] = lambda: None) -> Iterator[None]:
    """For the duration, this thread's calls time every kernel and remember the fastest for that shape.

    To be used on rows that hold no data: the choice must not depend on any. `progress` is called after each.
    """
    _probe.active, _probe.progress = True, progress
    try:
        yield
    finally:
        _probe.active = False


def choices() -> dict[Shape, str]:
    """What was found fastest so far."""
    return dict(_chosen)


def _usual(copies: int, device: torch.device) -> str:
    """Without a probe. Many copies: a convolution an example rearranges nothing. Few: its overhead must be spread."""
    if copies > 4:
        return "loop"
    return "products" if device.type == "cpu" else "grouped"


def _fastest(module: Any, g: Tensor, x: Tensor, weight: Tensor, into: Tensor) -> str:
    # On a CPU the time of this thread: others at work beside it shall not decide.
    clock = time.thread_time if g.device.type == "cpu" else time.perf_counter
    best = dict.fromkeys(KERNELS, math.inf)
    for trial in range(_TRIALS + 1):
        for name, kernel in KERNELS.items():
            _wait_for(g.device)
            start = clock()
            kernel(module, g, x, weight, into)
            _wait_for(g.device)
            if trial:  # the first sets up what the kernel needs
                best[name] = min(best[name], clock() - start)
    return min(best, key=best.__getitem__)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def convolution_backward(
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


def _looped(module: Any, g: Tensor, x: Tensor, weight: Tensor, into: Tensor) -> None:
    """Into [B, *weight.shape], one convolution an example."""
    copies = g.shape[0] // len(into)
    for gradient, g_one, x_one in zip(
        into, torch.split(g, copies), torch.split(x, copies), strict=True
    ):
        wanted = (False, True, False)
        gradient.copy_(convolution_backward(module, g_one, x_one, weight, 1, wanted)[1])


def _grouped(module: Any, g: Tensor, x: Tensor, weight: Tensor, into: Tensor) -> None:
    """Into [B, *weight.shape], one convolution whose groups are the examples."""
    examples = len(into)

    def side_by_side(rows: Tensor) -> Tensor:  # [B*K, C, H, W] -> [K, B*C, H, W]
        by_example = rows.reshape(examples, -1, *rows.shape[1:])
        return by_example.transpose(0, 1).flatten(1, 2).contiguous()

    shape = weight.new_empty(examples * weight.shape[0], *weight.shape[1:])
    gradient = convolution_backward(
        module, side_by_side(g), side_by_side(x), shape, examples, (False, True, False)
    )[1]
    into.copy_(gradient.view(into.shape))


def _multiplied(module: Any, g: Tensor, x: Tensor, weight: Tensor, into: Tensor) -> None:
    """Into [B, *weight.shape], output gradients times the patches of the input they came from."""
    examples, outputs = into.shape[:2]
    copies = g.shape[0] // examples
    g_last, x_last = (t.permute(0, 2, 3, 1).contiguous() for t in (g, x))
    # Products come in the order [O, *kernel, I], which is that of a parameter in channels-last order.
    in_place = weight.is_contiguous(memory_format=torch.channels_last) and g.dtype == into.dtype
    last_order = into.permute(0, 1, 3, 4, 2)
    products = (
        last_order if in_place else torch.empty(last_order.shape, dtype=g.dtype, device=g.device)
    )
    flat = products.view(examples, outputs, -1)
    # So many examples at a time that their patches stay in the cache between writing and reading.
    patch_bytes = g_last[:copies, ..., 0].numel() * flat.shape[2] * g.element_size()
    chunk = max(1, _PATCH_BYTES[g.device.type == "cpu"] // patch_bytes)
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


KERNELS: dict[str, Kernel] = {"products": _multiplied, "grouped": _grouped, "loop": _looped}
