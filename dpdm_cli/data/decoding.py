"""One file's bytes become one array. Knows pixels; no folders, no archives, no sets.

Only what loses nothing is converted unasked: 1-bit images become 8-bit grey, and the orientation
that a camera wrote with the pixels is applied. Palettes, alpha, 16-bit colour, CMYK and animations are
refused, since each of them can be turned into grey or colour in more than one way. Grey of more than
8 bits needs a window that was fixed beforehand: one taken from the pixels would let each image change
what becomes of its own brightness, or of that of all. Colour profiles are ignored. WEBP has no grey
images: they arrive as colour.
"""

from __future__ import annotations

import io
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from dpdm_cli.errors import UsageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
IN_WORDS = "PNG, JPEG, WEBP, BMP, TIFF or DICOM"
NO_WINDOW = "has more than 8 bits a channel, and no window is given"
NO_PYDICOM = "is a DICOM file, and pydicom is not installed"
WHAT_TO_DO = {
    NO_WINDOW: "Say by --window which values are black and white, for example --window 0,4095 for 12 bits, as it is "
    "known beforehand and whatever the images are.",
    NO_PYDICOM: "pip install 'dpdm-cli[dicom]'",
}
"""About what no file can be blamed for."""

MAX_PIXELS = 64_000_000
MAX_SIDE = 4096

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _WHITE_IS_ZERO = 0, 0  # colour type of PNG; photometric interpretation of TIFF
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF

Pixels = NDArray[np.uint8]


class BadImageError(Exception):
    """This file cannot be used; the message says why, in words that fit after the file's name."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What every image of a set is made into.

    Attributes:
        image_size: side in pixels; None leaves the size as it is. Otherwise the largest centred
            square is cut out and resized with Lanczos' filter, which is antialiased when it
            shrinks.
        channels: 1 makes colour grey (ITU-R 601 luma), 3 repeats grey; None leaves both as they
            are.
        window: the values that become 0 and 255 in images of more than 8 bits, what lies outside being cut off. It
            is a public setting, never taken from pixels. Images of 8 bits stay as they are.

    Raises:
        UsageError: values that no image can have.
    """

    image_size: int | None = None
    channels: int | None = None
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None and not 1 <= self.image_size <= MAX_SIDE:
            raise UsageError(
                f"image size must be between 1 and {MAX_SIDE} pixels, found {self.image_size}"
            )
        if self.channels not in (None, 1, 3):
            raise UsageError(f"channels must be 1 (grey) or 3 (colour), found {self.channels}")
        if self.window is not None:
            low, high = self.window
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise UsageError(
                    f"a window goes from a lower to a higher value, found {low:g},{high:g}",
                    "For example --window 0,4095: what 12 bits hold.",
                )


@dataclass(frozen=True)
class Decoded:
    """One usable image.

    Attributes:
        pixels: uint8 [H, W] or [H, W, 3], after the fit.
        size: width and height before the fit.
    """

    pixels: Pixels
    size: tuple[int, int]


def decode(data: bytes, fit: Fit) -> Decoded:
    """Decode one PNG, JPEG, WEBP, BMP, TIFF or DICOM file, whatever its name says it is.

    Args:
        data: the whole file.
        fit: size and channels wanted, and the window.

    Raises:
        BadImageError: empty, truncated, of another format, more than `MAX_PIXELS`, of more than 8 bits without a
            window or in colour, with a palette, with transparency, CMYK, or of several frames.
    """
    if not data:
        raise BadImageError("is empty")
    if data[128:132] == b"DICM":
        from dpdm_cli.data.readers.dicom import read_dicom  # which few sets need

        return _resized(read_dicom(data, fit.window), fit)
    png = data.startswith(_PNG_SIGNATURE)
    if png:
        _check_png(data)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",) if png else FORMATS) as image:
            _check_header(image, fit.window)
            image.load()
            return _resized(_as_8_bits(image, fit.window), fit)
    except (BadImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImageError(f"is not a {IN_WORDS} image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImageError(f"has more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:
        # The decoders answer broken files with exceptions of a dozen types.
        raise BadImageError(f"is truncated or damaged ({error})") from None


def _check_png(data: bytes) -> None:
    """What Pillow does not check: the checksums, the end, and a depth that it halves silently.

    PNG specification, section 5.3: each chunk is a length, a type, that many bytes and a CRC-32.
    """
    start, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        header = data[start : start + 8]
        end = start + 8 + int.from_bytes(header[:4], "big")
        if len(header) < 8 or end + 4 > len(data):
            raise BadImageError("is truncated")
        kind = header[4:]
        stated = int.from_bytes(data[end : end + 4], "big")
        if zlib.crc32(memoryview(data)[start + 4 : end]) != stated:
            raise BadImageError("is damaged (a checksum is wrong)")
        if (
            kind == b"IHDR"
            and data[start + 16 : start + 17] == b"\x10"
            and data[start + 17] != _GREY
        ):
            raise BadImageError(_DEEP_COLOUR)
        start = end + 4


_DEEP_COLOUR = "has 16 bits a channel of colour or transparency: convert it to 8-bit RGB"


def _check_header(image: Image.Image, window: tuple[float, float] | None) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImageError(f"has {width}x{height} pixels, more than {MAX_PIXELS:,}")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise BadImageError(
            f"is animated or holds several pictures ({frames} frames): write the one you mean to a file of its own"
        )
    mode = image.mode
    if mode in ("P", "PA"):
        raise BadImageError("has a colour palette, grey or RGB is expected")
    if mode in ("LA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        raise BadImageError("has transparency (an alpha channel), grey or RGB is expected")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (1,))
        if mode == "RGB" and max(bits) > 8:
            raise BadImageError(_DEEP_COLOUR)
    if mode.startswith(("I", "F")):
        check_window(window)
    elif mode not in ("1", "L", "RGB"):
        raise BadImageError(f"is {mode}, grey or RGB is expected")


def check_window(window: tuple[float, float] | None) -> tuple[float, float]:
    """The window of an image that needs one.

    Raises:
        BadImageError: there is none.
    """
    if window is None:
        raise BadImageError(NO_WINDOW)
    return window


def windowed(
    values: NDArray[Any], window: tuple[float, float], *, inverted: bool = False
) -> Pixels:
    """Values of more than 8 bits as 8: the window's ends become 0 and 255, what lies outside is cut off.

    Args:
        values: numbers of any kind, [H, W].
        window: fixed beforehand.
        inverted: whether low values are bright.

    Returns:
        uint8 [H, W].

    Raises:
        BadImageError: a value is no number.
    """
    low, high = window
    # 16 bits and their rescaled values are exact in 24.
    kind = np.float32 if values.dtype.itemsize <= 2 else np.float64
    scaled: NDArray[np.floating[Any]] = values.astype(kind)
    scaled -= low
    scaled *= 255 / (high - low)
    if not np.isfinite(scaled).all():
        raise BadImageError("holds values that are not numbers")
    pixels: Pixels = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    return np.invert(pixels) if inverted else pixels


def _as_8_bits(image: Image.Image, window: tuple[float, float] | None) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        inverted = (
            isinstance(image, TiffImagePlugin.TiffImageFile)
            and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        )
        pixels = windowed(np.asarray(image), check_window(window), inverted=inverted)
        return Image.fromarray(pixels)
    if "exif" in image.info:
        image = ImageOps.exif_transpose(image)
    return image.convert("L") if image.mode == "1" else image


def _resized(image: Image.Image, fit: Fit) -> Decoded:
    return Decoded(np.asarray(_fitted(image, fit)), image.size)


def _fitted(image: Image.Image, fit: Fit) -> Image.Image:
    if fit.channels is not None:
        mode = "L" if fit.channels == 1 else "RGB"
        if image.mode != mode:
            image = image.convert(mode)
    side = fit.image_size
    if side is None or image.size == (side, side):
        return image
    width, height = image.size
    square = min(width, height)
    left, top = (width - square) // 2, (height - square) // 2
    image = image.crop((left, top, left + square, top + square))
    return image.resize((side, side), Image.Resampling.LANCZOS)


def refit(images: Pixels, fit: Fit) -> Pixels:
    """The fit of `decode` for images that are already arrays.

    Args:
        images: uint8 [N, H, W] or [N, H, W, 3].
        fit: size and channels wanted.

    Returns:
        uint8 [N, H', W'] or [N, H', W', 3]; `images` itself when it already fits.
    """
    channels = 1 if images.ndim == 3 else 3
    height, width = images.shape[1:3]
    right_size = fit.image_size is None or (height, width) == (fit.image_size, fit.image_size)
    if right_size and fit.channels in (None, channels):
        return images
    return np.stack([np.asarray(_fitted(Image.fromarray(image), fit)) for image in images])


def planes(images: Pixels) -> Pixels:
    """Images as the rest of the program takes them.

    Args:
        images: uint8 [N, H, W] or [N, H, W, 3].

    Returns:
        uint8 [N, 1, H, W] or [N, 3, H, W], contiguous.
    """
    stack = images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1)
    return np.ascontiguousarray(stack)
