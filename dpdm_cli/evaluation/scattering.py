"""Wavelet scattering: features of images that no data were needed for.

Bruna and Mallat 2013 (arXiv 1203.1513): averages of |x * psi_1| and ||x * psi_1| * psi_2| over windows of 2^J pixels,
for Morlet wavelets psi of J scales and L angles. Small shifts and deformations move them little, and classes of images
lie almost linearly in them (Oyallon and Mallat 2015, arXiv 1412.8659); with privacy a linear classifier of them is hard
to beat (Tramèr and Boneh 2021, arXiv 2011.11660). Nothing in them is learnt: there are no weights to fetch, and
whatever privacy a classifier of them has is its own.

Symbols: B images of C channels, H rows and W columns; P = 1 + J L + L^2 J (J - 1) / 2 paths, 81 here.
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
"""Rows and columns of pixels behind one value of a path."""

FEWEST_PIXELS = 8
_MARGIN = WINDOW
_POOLED = 2
_PIECE = 250


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
                f"it needs {FEWEST_PIXELS}x{FEWEST_PIXELS} at least",
            )
        rows, columns = _padded(height), _padded(width)
        # Even numbers below and to the right too, so that the spectrum folds.
        self._margins = (_MARGIN, columns - width - _MARGIN, _MARGIN, rows - height - _MARGIN)
        angles = [math.pi * turn / ANGLES for turn in range(ANGLES)]

        def wavelets(scale: int) -> Tensor:
            filters = [_morlet(rows, columns, scale, angle) for angle in angles]
            return torch.stack(filters).to(device, torch.float32)

        self._wavelets = [wavelets(scale) for scale in range(SCALES)]
        self._down, self._across = (
            [_window(size, sides, step).to(device, torch.float32) for step in (1, 2)]
            for size, sides in ((height, rows), (width, columns))
        )
        self._device = device

    def __call__(self, images: Tensor) -> Tensor:
        """Features of images [B, C, H, W], uint8, taken in [0, 1]: [B, C, P, ceil(H / 4), ceil(W / 4)] float32."""
        return torch.cat([self._of_piece(piece) for piece in torch.split(images, _PIECE)])

    @torch.no_grad()
    def _of_piece(self, images: Tensor) -> Tensor:
        pixels = images.to(self._device).float() / 255.0
        spectrum = torch.fft.fft2(F.pad(pixels, self._margins, mode="reflect"))
        fine, coarse = self._wavelets
        zeroth = self._averaged(torch.fft.ifft2(spectrum).real[:, :, None], 1)
        first_fine = torch.fft.ifft2(spectrum[:, :, None] * fine).abs()
        first_coarse = torch.fft.ifft2(_folded(spectrum[:, :, None] * coarse)).abs()
        spectra = torch.fft.fft2(first_fine)[:, :, :, None]
        second = torch.fft.ifft2(_folded(spectra * coarse)).abs().flatten(2, 3)
        return torch.cat(
            [
                zeroth,
                self._averaged(first_fine, 1),
                self._averaged(first_coarse, 2),
                self._averaged(second, 2),
            ],
            dim=2,
        )

    def _averaged(self, x: Tensor, step: int) -> Tensor:
        """By the window, on every fourth pixel of the image; `x` has every pixel (step 1) or every second one."""
        return self._down[step - 1] @ x @ self._across[step - 1].T


class ScatteringExtractor:
    """Scattering features for distances: each path averaged over the quarters of the image, D = 324 C.

    So few that a covariance of some thousand images is well-posed. Needs no weights; a distance of them stands beside
    the FID where Inception is not at hand, and is not on its scale.
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
    """A multiple of the window with a margin on both sides."""
    return math.ceil((size + 2 * _MARGIN) / WINDOW) * WINDOW


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
    # As if the padded image went round.
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
    # It goes round, as the Fourier transform does.
    for turn_rows in range(-2, 3):
        for turn_columns in range(-2, 3):
            down = (torch.arange(rows).double() + turn_rows * rows)[:, None]
            across = (torch.arange(columns).double() + turn_columns * columns)[None]
            along = down * math.cos(angle) + across * math.sin(angle)
            beside = across * math.cos(angle) - down * math.sin(angle)
            size = torch.exp(-(along**2 + (slant * beside) ** 2) / (2 * deviation**2))
            envelope += size
            wave += size * torch.exp(1j * frequency * along)
    wavelet = wave - wave.sum() / envelope.sum() * envelope
    spectrum: Tensor = torch.fft.fft2(wavelet * slant / (2 * math.pi * deviation**2)).real
    return spectrum
