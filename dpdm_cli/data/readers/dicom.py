"""One DICOM file becomes one grey or colour image. Of its header only what pixels need is ever parsed.

Names, dates and numbers of people stand in other elements, which are skipped as bytes; and no text of the file, nor of
what the library says of it, becomes part of a message.
"""

from __future__ import annotations

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from dpdm_cli.data.decoding import MAX_PIXELS, NO_PYDICOM, BadImageError, check_window, windowed

_TAGS = [
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "PixelData",
]
_GREY = ("MONOCHROME1", "MONOCHROME2")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_ONE_AT_A_TIME = threading.Lock()  # the filters of warnings are those of the whole process


def read_dicom(data: bytes, window: tuple[float, float] | None) -> Image.Image:
    """The image in a DICOM file (PS3.3, C.7.6.3): stored values, rescaled (C.11.1), then the window.

    Args:
        data: the whole file, with its preamble.
        window: in rescaled units (Hounsfield's for CT); needed for grey of more than 8 bits, or rescaled. The window
            that a file itself proposes is not taken.

    Returns:
        mode L or RGB.

    Raises:
        BadImageError: no image, several frames, a colour table, 16-bit colour, a compression that cannot be read here,
            damaged, or no window; or pydicom is not installed.
    """
    try:
        with _ONE_AT_A_TIME, _silence():
            return _read(data, window)
    except (BadImageError, MemoryError):
        raise
    except ImportError:
        raise BadImageError(NO_PYDICOM) from None
    except Exception:
        # Errors of the library may quote the header.
        raise BadImageError("is a damaged DICOM file") from None


@contextmanager
def _silence() -> Iterator[None]:
    """Nobody hears of damage what the library says, which quotes whatever stands there."""
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def _read(data: bytes, window: tuple[float, float] | None) -> Image.Image:
    import pydicom
    from pydicom.pixels import pixel_array

    if _DEFLATED in data:  # which is inflated, to any size, before anything can be asked of it
        raise BadImageError("is compressed as a whole (deflated): write it uncompressed")
    found = pydicom.dcmread(io.BytesIO(data), specific_tags=list(_TAGS))
    if "PixelData" not in found or not found.PixelData:
        raise BadImageError(
            "is a DICOM file without an image (a report, a directory or a waveform): remove it"
        )
    kind = str(found.PhotometricInterpretation)
    _check(found, kind)
    _check_compression(found)
    values = pixel_array(found)
    if kind not in _GREY:
        return Image.fromarray(np.ascontiguousarray(values, np.uint8))
    slope, intercept = float(found.get("RescaleSlope", 1)), float(found.get("RescaleIntercept", 0))
    inverted = kind == "MONOCHROME1"
    if values.dtype == np.uint8 and (slope, intercept) == (1, 0):
        return Image.fromarray(255 - values if inverted else values)
    rescaled = values.astype(np.float64) * slope + intercept
    return Image.fromarray(windowed(rescaled, check_window(window), inverted=inverted))


def _check(found: Any, kind: str) -> None:
    if int(found.get("NumberOfFrames") or 1) > 1:
        raise BadImageError(
            "holds several frames: write the ones you mean to files of their own (for example with dcm2img of DCMTK)"
        )
    if int(found.Rows) * int(found.Columns) > MAX_PIXELS:
        raise BadImageError(f"has more than {MAX_PIXELS:,} pixels")
    if kind == "PALETTE COLOR":
        raise BadImageError(
            "has a colour table (PALETTE COLOR): convert it to RGB or to MONOCHROME2"
        )
    if int(found.BitsAllocated) not in (8, 16, 32):
        raise BadImageError("has neither 8, 16 nor 32 bits a value: convert it")
    if kind not in _GREY and (int(found.SamplesPerPixel), int(found.BitsAllocated)) != (3, 8):
        raise BadImageError("is neither grey nor 8-bit colour: convert it to MONOCHROME2 or RGB")
    if "ModalityLUTSequence" in found:
        raise BadImageError(
            "has a lookup table in the place of a rescale slope: write the looked-up values to a new file"
        )


def _check_compression(found: Any) -> None:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    syntax = UID(found.file_meta.TransferSyntaxUID)
    if not syntax.is_compressed:
        return
    try:
        if get_decoder(syntax).is_available:
            return
    except NotImplementedError:
        pass
    # Words of the standard, or none: what a file calls its compression may be anything.
    name = syntax.name if syntax.is_transfer_syntax and not syntax.is_private else "an unknown way"
    raise BadImageError(
        f"is compressed in a way that cannot be read here ({name}): decompress it, for example with "
        "`dcmdjpeg` or `gdcmconv --raw`, or pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
    )
