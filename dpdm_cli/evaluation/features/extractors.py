"""Feature extractors: from images to the vectors whose Fréchet distance is taken.

The default is clean-fid's: its resizing and its wrapper of the Inception network of 2015 (Parmar et
al. 2022, arXiv 2104.11222). Of clean-fid nothing else is used: neither its statistics cache nor its
choice of device.

Symbols: B images of C channels (1 or 3), H rows and W columns, uint8 [B, C, H, W]; D features.

Both Inception and a network of the user's own are TorchScript files, and loading such a file runs the code in it. Of
Inception only the published file is loaded, known by its SHA-256; a network of one's own is to come from a source one
trusts.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dpdm_cli.errors import DamagedFileError, UsageError
from dpdm_cli.evaluation.features.weights import copy_published
from dpdm_cli.files import expanded, sha256_of

RESIZE_MODES = ("clean", "legacy_tensorflow")
"""`clean` resizes to 299x299 by PIL's bicubic filter with antialiasing; `legacy_tensorflow` leaves
the resizing to the network, as the first FID code did and DPDM's authors do (arXiv 2210.09929: the
network of StyleGAN3's metrics, given images at their own size). clean-fid's `legacy_pytorch` is left out:
its weights are a pickle."""

_PIXELS_SIDE = 16


class Extractor(Protocol):
    """Turns uint8 [B, C, H, W] into features [B, D].

    Attributes:
        name: what results call it.
        digest: SHA-256 (hex) of what determines the features, beside the resizing.
        resize: how images are brought to the network's size.
    """

    name: str
    digest: str
    resize: str

    def __call__(self, images: Tensor) -> Tensor:
        """Features [B, D], floating, on the extractor's device."""


class PixelExtractor:
    """The pixels themselves in [0, 1], averaged to at most 16x16; D = C min(H, 16) min(W, 16).

    Needs no weights. A distance of means and covariances of pixels: good to compare runs with each
    other, but not a substitute for the FID and not on its scale.
    """

    name = "pixels"
    resize = f"area to at most {_PIXELS_SIDE}x{_PIXELS_SIDE}"
    digest = hashlib.sha256(f"pixels in [0, 1], {resize}".encode()).hexdigest()

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __call__(self, images: Tensor) -> Tensor:
        pixels = images.to(self._device).to(torch.float32) / 255.0
        height, width = pixels.shape[2:]
        side = min(height, _PIXELS_SIDE), min(width, _PIXELS_SIDE)
        return F.adaptive_avg_pool2d(pixels, side).flatten(1)


class InceptionExtractor:
    """clean-fid's Inception features, D = 2048; grey images are repeated in three channels.

    Args:
        weights: the published TorchScript file; no other is loaded.
        resize: one of `RESIZE_MODES`.
        device: where the network runs.

    Raises:
        DamagedFileError: it is another file.
    """

    name = "inception"

    def __init__(self, weights: Path, resize: str, device: torch.device) -> None:
        if resize not in RESIZE_MODES:
            raise UsageError(
                f"unknown resize mode {resize!r}", f"choose from {', '.join(RESIZE_MODES)}"
            )
        from cleanfid.inception_torchscript import InceptionV3W
        from cleanfid.resize import build_resizer

        self.resize = resize
        self._device = device
        self._resize_one = build_resizer(resize)
        with tempfile.TemporaryDirectory() as folder, _without_deprecation():
            # clean-fid takes a folder and expects the file in it under its published name.
            self.digest = copy_published(weights, Path(folder))
            network = InceptionV3W(
                folder, download=False, resize_inside=resize == "legacy_tensorflow"
            )
        self._network: Any = network.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        pixels = self._resized(in_colour(images)).to(self._device)
        # Rounding to tf32 moves features by more than a sampler's last digits do.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features: Tensor = self._network(pixels)
        return features

    def _resized(self, images: Tensor) -> Tensor:
        """float32 [B, 3, h, w] in [0, 255]."""
        if self.resize == "legacy_tensorflow":
            return images.to(torch.float32)
        rows = images.permute(0, 2, 3, 1).contiguous().numpy()
        with ThreadPoolExecutor() as threads:  # PIL lets go of the interpreter while it resizes
            resized = np.stack(list(threads.map(self._resize_one, rows)))
        return torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous()


class TorchScriptExtractor:
    """A network of the user's own, as a TorchScript file.

    It is called with float32 [B, 3, H, W] in [0, 255] at the images' own size (grey repeated in
    three channels), with `return_features=True` if it has such an argument, and gives [B, ...],
    which is flattened.

    Raises:
        DamagedFileError: the file is not a TorchScript network, or its answer does not have one
        row for each image.
    """

    resize = "none"

    def __init__(self, file: Path, device: torch.device) -> None:
        self.name = file.name
        self.digest = sha256_of(file)
        self._file = file
        self._device = device
        try:
            with _without_deprecation():
                network = torch.jit.load(str(file), map_location=device)  # type: ignore[no-untyped-call]
            self._network = network.eval()
            arguments = {a.name for a in self._network.forward.schema.arguments}
        except (RuntimeError, AttributeError) as error:
            raise DamagedFileError(
                f"{file}: not a TorchScript network: {_first_line(error)}",
                "write one with torch.jit.trace(network, example).save(file)",
            ) from error
        self._options = {"return_features": True} if "return_features" in arguments else {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        pixels = in_colour(images).to(self._device).to(torch.float32)
        try:
            features = self._network(pixels, **self._options)
        except RuntimeError as error:
            raise DamagedFileError(
                f"{self._file}: the network refuses images {list(pixels.shape)}: "
                f"{_first_line(error)}",
                "it must take float32 [B, 3, H, W] in [0, 255]",
            ) from error
        if (
            not isinstance(features, Tensor)
            or features.shape[:1] != pixels.shape[:1]
            or not features.numel()
        ):
            raise DamagedFileError(
                f"{self._file}: expected one row of features for each image, "
                f"found {_describe(features)}",
                "the network must give a tensor [B, ...]",
            )
        return features.flatten(1)


def in_colour(images: Tensor) -> Tensor:
    """[B, 1 or 3, H, W] to [B, 3, H, W]; a grey channel is repeated."""
    return images.expand(-1, 3, -1, -1)


def load_torchscript(name: str, device: torch.device) -> TorchScriptExtractor:
    """The extractor in a user's file. Raises `UsageError` when `name` is not a file."""
    file = expanded(name)
    if not file.is_file():
        raise UsageError(
            f"unknown extractor {name!r}, and there is no such file",
            "choose inception, scattering, pixels or the path of a TorchScript file",
        )
    return TorchScriptExtractor(file, device)


@contextmanager
def _without_deprecation() -> Iterator[None]:
    """Torch advises against TorchScript, but it is what the published network comes in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _describe(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__
