"""Wavelet scattering: features of images that need no training data.

Bruna and Mallat 2013 (arXiv 1203.1513): averages of |x * psi_1| and ||x * psi_1| * psi_2| over windows of 2^J pixels,
for Morlet wavelets psi of J scales and L angles. Small shifts and deformations move them little, and classes of images
lie almost linearly in them (Oyallon and Mallat 2015, arXiv 1412.8659); with privacy a linear classifier of them is hard
to beat (Tramèr and Boneh 2021, arXiv 2011.11660). Nothing in them is learnt: there are no weights to download,
and the features themselves cost no privacy.

Symbols: B images of C channels, H rows and W columns; P = 1 + J L + L^2 J (J - 1) / 2 paths, 81 here, in this order:
the image itself, the fine wavelets by angle, the coarse ones, and for each fine one all coarse ones after it.
"""

from __future__ import annotations

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dpdm_cli.errors import DataError

SCALES, ANGLES = 2, 8
PATHS = 1 + SCALES * ANGLES + ANGLES**2 * SCALES * (SCALES - 1) // 2
WINDOW: int = 2**SCALES
"""Rows and columns of pixels from one value of a path to the next."""

FEWEST_PIXELS = 8
_MARGIN = WINDOW
_POOLED = 2
_PIXELS_AT_ONCE = 2**18
"""Margins included. 64 complex numbers are computed of each, 512 bytes."""


class Scattering:
    """The transform of images of one size, J = 2 and L = 8.

    Filters as Kymatio has them (arXiv 1812.11214): wavelet j has a centre frequency of 3 pi / 4 / 2^j, an envelope of
    0.8 2^j pixels and a slant of 4 / L; the window is a Gaussian of 0.8 2^(J - 1) pixels. Images are continued beyond
    their edges by reflection.

    Args:
        height, width: of the images, at least 8 pixels each.
        device: where it is computed.

    Raises:
        DataError: smaller images.
    """

    def __init__(self, height: int, width: int, device: torch.device) -> None:
        if min(height, width) < FEWEST_PIXELS:
            raise DataError(
                f"images of {height}x{width} pixels are too small for wavelet scattering",
                f"give images of {FEWEST_PIXELS}x{FEWEST_PIXELS} at least, or take other features",
            )
        rows, columns = _padded(height), _padded(width)
        self._margins = (_MARGIN, columns - width - _MARGIN, _MARGIN, rows - height - _MARGIN)
        angles = [math.pi * turn / ANGLES for turn in range(ANGLES)]

        def wavelets(scale: int) -> Tensor:
            filters = [_morlet(rows, columns, scale, angle) for angle in angles]
            return torch.stack(filters).float().to(device)

        self._fine, self._coarse = (wavelets(scale) for scale in range(SCALES))
        self._down, self._across = (
            [_window(size, sides, step).float().to(device) for step in (1, 2)]
            for size, sides in ((height, rows), (width, columns))
        )
        self._chunk = max(1, _PIXELS_AT_ONCE // (rows * columns))
        self._device = device

    def __call__(self, images: Tensor) -> Tensor:
        """Features of images [B, C, H, W], uint8, taken in [0, 1]: [B, C, P, ceil(H / 4), ceil(W / 4)] float32."""
        chunks = torch.split(images.flatten(0, 1), self._chunk)
        features = torch.cat([self._of_channels(chunk) for chunk in chunks])
        return features.view(*images.shape[:2], *features.shape[1:])

    @torch.no_grad()
    def _of_channels(self, pixels: Tensor) -> Tensor:
        """[B, H, W] to [B, P, ceil(H / 4), ceil(W / 4)]."""
        scaled = pixels.to(self._device).float() / 255.0
        image = F.pad(scaled, self._margins, mode="reflect")[:, None]
        spectrum = torch.fft.fft2(image)
        fine = torch.fft.ifft2(spectrum * self._fine).abs()
        coarse = torch.fft.ifft2(_folded(spectrum * self._coarse)).abs()
        spectra = torch.fft.fft2(fine)[:, :, None]
        second = torch.fft.ifft2(_folded(spectra * self._coarse)).abs().flatten(1, 2)
        return torch.cat(
            [
                self._averaged(image, 1),
                self._averaged(fine, 1),
                self._averaged(coarse, 2),
                self._averaged(second, 2),
            ],
            dim=1,
        )

    def _averaged(self, x: Tensor, step: int) -> Tensor:
        """By the window, on every fourth pixel of the image; `x` has every pixel (step 1) or every second one."""
        return self._down[step - 1] @ x @ self._across[step - 1].T


class ScatteringExtractor:
    """Scattering features for distances: each path averaged over the quarters of the image, D = 324 C.

    So few that a covariance of some thousand images is well-posed. Needs no weights; a distance of them is an
    alternative to the FID where Inception is not available, and is not on its scale.
    """

    name = "scattering"
    resize = "none"
    digest = hashlib.sha256(
        f"scattering, J {SCALES}, L {ANGLES}, Morlet, reflected, averaged to {_POOLED}x{_POOLED}".encode()
    ).hexdigest()

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._transforms: dict[tuple[int, ...], Scattering] = {}

    def __call__(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        transform = self._transforms.get((height, width))
        if transform is None:
            transform = Scattering(height, width, self._device)
            self._transforms[height, width] = transform
        features = transform(images).flatten(1, 2)
        return F.adaptive_avg_pool2d(features, _POOLED).flatten(1)


def _padded(size: int) -> int:
    """With a margin on both sides, and even, so that the spectrum folds."""
    return size + 2 * _MARGIN + size % 2


def _folded(spectrum: Tensor) -> Tensor:
    """The spectrum of every second row and column of what `spectrum` is of: [..., 2r, 2c] to [..., r, c]."""
    rows, columns = spectrum.shape[-2:]
    halves = spectrum.reshape(*spectrum.shape[:-2], 2, rows // 2, 2, columns // 2)
    return halves.mean((-4, -2))


def _window(size: int, padded: int, step: int) -> Tensor:
    """[ceil(size / 4), padded / step]: Gaussian averages around every fourth pixel of the image, float64."""
    deviation = 0.8 * 2 ** (SCALES - 1)
    centres = _MARGIN + torch.arange(0, size, WINDOW)
    distance = torch.arange(0, padded, step) - centres[:, None]
    # As if the padded image were periodic.
    distance = distance - padded * torch.round(distance / padded)
    weights = torch.exp(-(distance.double() ** 2) / (2 * deviation**2))
    window: Tensor = weights / weights.sum(1, keepdim=True)
    return window


def _morlet(rows: int, columns: int, scale: int, angle: float) -> Tensor:
    """Spectrum of a Morlet wavelet, real, [rows, columns] float64: a Gabor function less what makes its mean zero."""
    deviation, slant = 0.8 * 2**scale, 4 / ANGLES
    frequency = 0.75 * math.pi / 2**scale
    wave = torch.zeros(rows, columns, dtype=torch.complex128)
    envelope = torch.zeros(rows, columns, dtype=torch.complex128)
    # Periodic, as the Fourier transform is.
    for turn_rows in range(-1, 2):
        for turn_columns in range(-1, 2):
            down = (_offsets(rows) + turn_rows * rows)[:, None]
            across = (_offsets(columns) + turn_columns * columns)[None]
            along = down * math.cos(angle) + across * math.sin(angle)
            beside = across * math.cos(angle) - down * math.sin(angle)
            size = torch.exp(-(along**2 + (slant * beside) ** 2) / (2 * deviation**2))
            envelope += size
            wave += size * torch.exp(1j * frequency * along)
    wavelet = wave - wave.sum() / envelope.sum() * envelope
    spectrum: Tensor = torch.fft.fft2(wavelet * slant / (2 * math.pi * deviation**2)).real
    return spectrum


def _offsets(size: int) -> Tensor:
    """[size] float64: 0, 1, .., and what is nearer to 0 from the other side, as negative."""
    offsets: Tensor = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    return offsets
