"""The DDPM++ network of the paper (Song et al., arXiv 2011.13456, appendix H; DPDM, arXiv 2210.09929, table 8).

A U-Net of residual blocks in the style of BigGAN (resampling inside the block), with attention at chosen resolutions,
group normalisation, SiLU, and skip connections scaled by 1/sqrt(2). The noise level enters by sinusoids, the class by
an embedding added to them. No layer mixes two rows, so a row's output depends on that row alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpdm_cli.compute.group_norm import GroupNorm
from dpdm_cli.stored import LARGEST_SIDE

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)

_SKIP_SCALE = math.sqrt(0.5)
_ATTENTION_SCALE = 0.1  # of the variance q, k and v start with

_MOST = {"channels": 1 << 12, "blocks": 32, "patch": 64, "embedding": 1 << 14, "classes": 1 << 16}
_MOST_LEVELS, _LARGEST_MULTIPLIER = 10, 64


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Everything that fixes the network's shape.

    Attributes:
        image_size: height and width in pixels; divisible by patch * 2^(levels - 1).
        image_channels: 1 for grey, 3 for colour.
        classes: number of classes, 0 for an unconditional network; one more line is kept for "no class".
        channels: width of the first level.
        multipliers: width of each level in units of `channels`.
        blocks: residual blocks a level on the way down (one more on the way up).
        attention: resolutions, in pixels of the (patched) grid, that get attention.
        patch: side of the pixel blocks folded into channels before the first layer; 1 for the paper's networks.
        embedding: width of the noise embedding's two linear layers.
        sees_prior: whether the input is two images, the noisy one and the prior's estimate; see `Denoiser`.

    Raises:
        ValueError: a field of another kind, or out of all bounds: nothing is built to find that out.
    """

    image_size: int
    image_channels: int
    classes: int
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (7,)
    patch: int = 1
    embedding: int = 128
    sees_prior: bool = False

    def __post_init__(self) -> None:
        _check_within("image_channels", self.image_channels, 1, 3)
        if self.image_channels == 2 or type(self.sees_prior) is not bool:
            raise ValueError("images have 1 or 3 channels, and sees_prior is true or false")
        _check_within("image_size", self.image_size, 1, LARGEST_SIDE)
        for name, most in _MOST.items():
            _check_within(name, getattr(self, name), 0 if name == "classes" else 1, most)
        for name, high in (
            ("multipliers", _LARGEST_MULTIPLIER),
            ("attention", LARGEST_SIDE),
        ):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) > _MOST_LEVELS:
                raise ValueError(f"{name} is no list of at most {_MOST_LEVELS}")
            for value in values:
                _check_within(name, value, 1, high)
        if not self.multipliers or self.channels % 4:
            raise ValueError("no multipliers, or channels that are no multiple of 4")
        step = self.patch * 2 ** (len(self.multipliers) - 1)
        if self.image_size % step:
            raise ValueError(f"image size {self.image_size} is not divisible by {step}")


def _check_within(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {str(value)[:40]}, not within {low} to {high}")


class UNet(nn.Module):
    """F(x, c_noise, labels).

    Args:
        config: the shape; see `UNetConfig`.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width, embedding = config.channels, config.embedding
        pixels = config.image_channels * config.patch**2
        resolution = config.image_size // config.patch

        self.classes = _embedding(config.classes + 1, width) if config.classes else None
        self.noise = nn.ModuleList([_linear(width, embedding), _linear(embedding, embedding)])
        self.stem = _conv(pixels * (2 if config.sees_prior else 1), width)

        def attention_here(channels: int) -> Attention | None:
            return Attention(channels) if resolution in config.attention else None

        # Down: `skips` keeps the widths that the way up will take in.
        skips, channels = [width], width
        down: list[nn.Module] = []
        for level, multiplier in enumerate(config.multipliers):
            for _ in range(config.blocks):
                block = ResidualBlock(channels, width * multiplier, embedding)
                channels = width * multiplier
                down.append(Stage(block, attention_here(channels)))
                skips.append(channels)
            if level + 1 < len(config.multipliers):
                down.append(
                    Stage(ResidualBlock(channels, channels, embedding, resample="down"), None)
                )
                resolution //= 2
                skips.append(channels)
        self.down = nn.ModuleList(down)

        self.middle = nn.ModuleList(
            [
                Stage(ResidualBlock(channels, channels, embedding), Attention(channels)),
                Stage(ResidualBlock(channels, channels, embedding), None),
            ]
        )

        up: list[nn.Module] = []
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            for index in range(config.blocks + 1):
                block = ResidualBlock(channels + skips.pop(), width * multiplier, embedding)
                channels = width * multiplier
                last = index == config.blocks
                up.append(Stage(block, attention_here(channels) if last else None, takes_skip=True))
            if level:
                up.append(Stage(ResidualBlock(channels, channels, embedding, resample="up"), None))
                resolution *= 2
        self.up = nn.ModuleList(up)

        self.norm = _norm(channels)
        self.head = _conv(channels, pixels, scale=0.0)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Args: x [R, C or 2 C, H, W]; c_noise [R]; labels int64 [R] with `classes` for none. Returns [R, C, H, W]."""
        embedding = sinusoids(c_noise, self.config.channels)
        if self.classes is not None:
            if labels is None:
                labels = torch.full(x.shape[:1], self.config.classes, device=x.device)
            embedding = embedding + self.classes(labels)
        first, second = self.noise
        embedding = F.silu(second(F.silu(first(embedding))))

        h = self.stem(F.pixel_unshuffle(x, self.config.patch))
        skips = [h]
        for stage in self.down:
            h = stage(h, embedding)
            skips.append(h)
        for stage in self.middle:
            h = stage(h, embedding)
        for stage in self.up:
            h = stage(torch.cat([h, skips.pop()], 1) if stage.takes_skip else h, embedding)
        h = self.head(F.silu(self.norm(h)))
        image: Tensor = F.pixel_shuffle(h, self.config.patch)
        return image


class Stage(nn.Module):
    """A residual block and, at some resolutions, attention after it."""

    def __init__(
        self, block: ResidualBlock, attention: Attention | None, takes_skip: bool = False
    ) -> None:
        super().__init__()
        self.block = block
        self.attention = attention
        self.takes_skip = takes_skip

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h: Tensor = self.block(x, embedding)
        return h if self.attention is None else self.attention(h)


class ResidualBlock(nn.Module):
    """Norm, SiLU, resample, convolution; embedding added; norm, SiLU, convolution; plus a shortcut."""

    def __init__(self, inputs: int, outputs: int, embedding: int, resample: str = "") -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = _norm(inputs)
        self.conv1 = _conv(inputs, outputs)
        self.embedding = _linear(embedding, outputs)
        self.norm2 = _norm(outputs)
        self.conv2 = _conv(outputs, outputs, scale=0.0)
        self.shortcut = _conv(inputs, outputs, kernel=1) if inputs != outputs or resample else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.resample:
            h, x = _resample(h, self.resample), _resample(x, self.resample)
        h = self.conv1(h) + self.embedding(embedding)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        kept: Tensor = x if self.shortcut is None else self.shortcut(x)
        return torch.add(kept, h) * _SKIP_SCALE


class Attention(nn.Module):
    """Self-attention over the pixels of one image, one head.

    q, k and v are one convolution, but start as three of C x C with scale 0.1, as in DDPM++: standard deviation
    sqrt(0.1 / C).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.qkv = _conv(channels, 3 * channels, kernel=1)
        for layer in self.qkv.weight.chunk(3):  # q, k and v: fans of C each, not of C and 3C
            _scaled(layer, _ATTENTION_SCALE)
        self.out = _conv(channels, channels, kernel=1, scale=0.0)

    def forward(self, x: Tensor) -> Tensor:
        rows, channels, height, width = x.shape
        q, k, v = self.qkv(self.norm(x)).flatten(2).chunk(3, dim=1)  # [R, C, H*W] each
        weights = (q.transpose(1, 2) @ k * channels**-0.5).softmax(-1)  # [R, queries, keys]
        h = (weights @ v.transpose(1, 2)).transpose(1, 2).view(rows, channels, height, width)
        return torch.add(x, self.out(h)) * _SKIP_SCALE


def sinusoids(c_noise: Tensor, width: int) -> Tensor:
    """Transformer position encoding of a noise level, [R] -> [R, width]: half sines, half cosines."""
    half = width // 2
    exponents = torch.arange(half, device=c_noise.device, dtype=c_noise.dtype) / (half - 1)
    angles = c_noise[:, None] * 10000.0**-exponents
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _resample(x: Tensor, direction: str) -> Tensor:
    if direction == "up":
        return F.interpolate(x, scale_factor=2, mode="nearest")
    return F.avg_pool2d(x, 2)


def _norm(channels: int) -> GroupNorm:
    return GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


def _conv(inputs: int, outputs: int, kernel: int = 3, scale: float = 1.0) -> nn.Conv2d:
    return _initialised(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), scale)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return _initialised(nn.Linear(inputs, outputs), 1.0)


def _embedding(rows: int, width: int) -> nn.Embedding:
    """From a standard Gaussian.

    Where shapes alone are asked for nothing is drawn: torch would load its compiler for it, which takes seconds.
    """
    weight = torch.empty(rows, width)
    if not weight.is_meta:
        nn.init.normal_(weight)
    return nn.Embedding(rows, width, _weight=weight)


def _initialised(layer: Layer, scale: float) -> Layer:
    """No bias, and weights by `_scaled`."""
    _scaled(layer.weight, scale)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _scaled(weight: Tensor, scale: float) -> None:
    """Variance scaling over the average of fan-in and fan-out; `scale` 0 starts a branch at (almost) nothing."""
    nn.init.xavier_uniform_(weight, gain=math.sqrt(max(scale, 1e-10)))
