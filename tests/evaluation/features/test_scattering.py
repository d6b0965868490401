from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpdm_cli.data import load_images
from dpdm_cli.errors import DataError
from dpdm_cli.evaluation.distances.frechet import FeatureStatistics, frechet_distance
from dpdm_cli.evaluation.features import scattering
from dpdm_cli.evaluation.features.extractors import PixelExtractor
from dpdm_cli.evaluation.features.scattering import ANGLES, PATHS, Scattering, ScatteringExtractor

CPU = torch.device("cpu")
FINE, COARSE, SECOND = slice(1, 9), slice(9, 17), slice(17, 81)


def images(n: int, channels: int = 1, height: int = 28, width: int = 28) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=g)


def blob(side: int, extent: int) -> Tensor:
    """One image [1, 1, side, side], black but for random pixels in its middle."""
    image = torch.zeros(1, 1, side, side, dtype=torch.uint8)
    start = (side - extent) // 2
    middle = slice(start, start + extent)
    image[:, :, middle, middle] = images(1, 1, extent, extent)
    return image


def transform(x: Tensor) -> Tensor:
    return Scattering(x.shape[2], x.shape[3], CPU)(x)


def wavelet(scale: int, turn: int, reach: int = 20) -> NDArray[np.complex128]:
    """A Morlet wavelet as Bruna and Mallat 2013 define it, at offsets from -reach to reach."""
    angle, deviation, frequency = math.pi * turn / 8, 0.8 * 2**scale, 0.75 * math.pi / 2**scale
    down, across = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(float)
    along = math.cos(angle) * down + math.sin(angle) * across
    beside = -math.sin(angle) * down + math.cos(angle) * across
    gaussian = np.exp(-(along**2 + beside**2 / 4) / (2 * deviation**2))
    wave = gaussian * np.exp(1j * frequency * along)
    return (wave - gaussian * wave.sum() / gaussian.sum()) / (4 * math.pi * deviation**2)


def convolved(
    x: NDArray[np.float64], kernel: NDArray[np.complex128], reach: int = 20
) -> NDArray[np.complex128]:
    total = np.zeros(x.shape, dtype=complex)
    for down in range(-reach, reach + 1):
        for across in range(-reach, reach + 1):
            total += kernel[down + reach, across + reach] * np.roll(x, (down, across), (0, 1))
    return total


def averaged(x: NDArray[np.float64], height: int, width: int, step: int) -> NDArray[np.float64]:
    """Gaussian averages around every fourth pixel of the image, which begins at (4, 4) of x and goes round."""
    x = x[::step, ::step]

    def weights(sides: int, centre: int) -> NDArray[np.float64]:
        places = step * np.arange(sides)
        turns = [places + turn * step * sides - 4 - centre for turn in (-1, 0, 1)]
        found = sum(np.exp(-(turn**2) / (2 * 1.6**2)) for turn in turns)
        return np.asarray(found / np.sum(found))

    return np.array(
        [
            [weights(x.shape[0], i) @ x @ weights(x.shape[1], j) for j in range(0, width, 4)]
            for i in range(0, height, 4)
        ]
    )


@pytest.mark.parametrize(("height", "width"), [(9, 14), (8, 8)])
def test_features_are_those_of_slow_convolutions_in_float64(height: int, width: int) -> None:
    (image,) = images(1, 1, height, width)
    margins = [(4, 4 + side % 2) for side in (height, width)]
    x = np.pad(image[0].numpy() / 255.0, margins, mode="reflect")
    fine = [np.abs(convolved(x, wavelet(0, turn))) for turn in range(8)]
    coarse = [np.abs(convolved(x, wavelet(1, turn))) for turn in range(8)]
    # Two of the eight angles before every coarse one: the others are no different.
    second = {
        (first, turn): np.abs(convolved(fine[first], wavelet(1, turn)))
        for first in (0, 3)
        for turn in range(8)
    }
    found = transform(image[None])[0, 0].double().numpy()

    def compare(path: int, expected: NDArray[np.float64], step: int) -> None:
        np.testing.assert_allclose(
            found[path], averaged(expected, height, width, step), rtol=1e-5, atol=1e-6
        )

    compare(0, x, 1)
    for turn in range(8):
        compare(1 + turn, fine[turn], 1)
        compare(9 + turn, coarse[turn], 2)
    for (first, turn), expected in second.items():
        compare(17 + 8 * first + turn, expected, 2)


@pytest.mark.parametrize(
    ("channels", "height", "width", "rows", "columns"),
    [(1, 28, 28, 7, 7), (3, 32, 32, 8, 8), (1, 8, 8, 2, 2), (3, 9, 14, 3, 4), (1, 31, 8, 8, 2)],
)
def test_there_is_a_value_of_each_path_for_every_fourth_pixel(
    channels: int, height: int, width: int, rows: int, columns: int
) -> None:
    x = images(2, channels, height, width)
    assert transform(x).shape == (2, channels, PATHS, rows, columns)
    assert ScatteringExtractor(CPU)(x).shape == (2, 324 * channels)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (7, 28), (28, 7)])
def test_smaller_images_are_refused(height: int, width: int) -> None:
    with pytest.raises(DataError, match=f"{height}x{width} pixels are too small") as caught:
        ScatteringExtractor(CPU)(images(1, 1, height, width))
    assert "8x8 at least" in caught.value.hint


@pytest.mark.parametrize("side", [8, 27, 28])
def test_of_an_even_grey_only_its_brightness_is_seen(side: int) -> None:
    grey = transform(torch.full((1, 1, side, side), 153, dtype=torch.uint8))[0, 0]
    torch.testing.assert_close(grey[0], torch.full_like(grey[0], 0.6))
    assert grey[1:].abs().max() < 1e-6


def test_a_folded_spectrum_is_that_of_every_second_row_and_column() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 12, 10, dtype=torch.complex128, generator=g)
    folded = scattering._folded(torch.fft.fft2(x))
    torch.testing.assert_close(torch.fft.ifft2(folded), x[..., ::2, ::2])


def test_a_shift_by_one_pixel_moves_features_less_than_pixels() -> None:
    here = blob(28, 14)
    there = here.roll((1, 1), (2, 3))

    def moved(before: Tensor, after: Tensor) -> float:
        return float((after - before).norm() / before.norm())

    assert moved(transform(here), transform(there)) < 0.5 * moved(here.float(), there.float())


def test_a_quarter_turn_of_the_image_permutes_the_angles() -> None:
    # The middle pixel is one of every fourth, so that those of the turned image are the same.
    image = blob(33, 15)
    turned = transform(image.rot90(1, (2, 3)))[0, 0]
    expected = transform(image)[0, 0].rot90(1, (1, 2))
    half = ANGLES // 2
    second = expected[SECOND].unflatten(0, (ANGLES, ANGLES))
    for path, permuted in (
        (slice(0, 1), expected[:1]),
        (FINE, expected[FINE].roll(half, 0)),
        (COARSE, expected[COARSE].roll(half, 0)),
        (SECOND, second.roll((half, half), (0, 1)).flatten(0, 1)),
    ):
        torch.testing.assert_close(turned[path], permuted, rtol=1e-4, atol=1e-5)


def test_an_image_has_its_features_whatever_stands_beside_it() -> None:
    # More than are computed at a time.
    x = images(300, 1, 32, 32)
    assert len(x) > scattering._PIXELS_AT_ONCE // 40**2
    together = transform(x)
    for one in (0, 150, 299):
        torch.testing.assert_close(transform(x[one : one + 1])[0], together[one])


def test_a_channel_has_the_features_of_a_grey_image() -> None:
    x = images(3, 3, 12, 12)
    together = transform(x)
    for channel in range(3):
        torch.testing.assert_close(
            transform(x[:, channel : channel + 1])[:, 0], together[:, channel]
        )


def test_features_for_distances_are_averages_over_the_quarters_of_the_image() -> None:
    x = images(2, 3, 16, 16)
    quarters = transform(x).unflatten(4, (2, 2)).unflatten(3, (2, 2)).mean((4, 6))
    torch.testing.assert_close(ScatteringExtractor(CPU)(x), quarters.flatten(1))


def test_images_of_another_size_are_transformed_by_filters_of_that_size() -> None:
    extract = ScatteringExtractor(CPU)
    for side in (12, 28, 12):
        x = images(2, 1, side, side)
        torch.testing.assert_close(extract(x), ScatteringExtractor(CPU)(x))


def test_the_digest_names_the_features() -> None:
    first, again = (ScatteringExtractor(CPU).digest for _ in range(2))
    assert first == again != PixelExtractor.digest
    assert len(first) == 64


def test_halves_of_a_set_are_closer_than_a_noisy_copy() -> None:
    digits = load_images("digits", split="train").images
    g = torch.Generator().manual_seed(0)
    noisy = digits + 50.0 * torch.randn(digits.shape, generator=g)

    def statistics(x: Tensor) -> FeatureStatistics:
        return FeatureStatistics.of(ScatteringExtractor(CPU)(x))

    half = statistics(digits[::2])
    apart = frechet_distance(half, statistics(digits[1::2]))
    far = frechet_distance(half, statistics(noisy.clamp(0, 255).byte()))
    assert apart < 0.2 * far
