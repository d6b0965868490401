"""DICOM files: pixels by the standard, and nothing else of them anywhere."""

from __future__ import annotations

import io
import logging
import warnings
from typing import Any

import numpy as np
import pytest

from dpdm_cli.data.decoding import NO_WINDOW, BadImageError, Fit, decode

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

MARK = "Lovelace^Ada"
VALUES = np.array([[0, 1000], [2000, 4095]], np.uint16)


def dicom(pixels: Any = VALUES, syntax: str = ExplicitVRLittleEndian, **fields: Any) -> bytes:
    """A file with a name in every field that takes one."""
    about = FileMetaDataset()
    about.MediaStorageSOPClassUID = CTImageStorage
    about.MediaStorageSOPInstanceUID = generate_uid()
    about.TransferSyntaxUID = ExplicitVRLittleEndian
    found = FileDataset("", Dataset(), file_meta=about, preamble=b"\0" * 128)
    found.PatientName = found.PatientID = found.StudyDescription = found.InstitutionName = MARK
    found.PatientBirthDate = "18151210"
    found.SOPClassUID, found.SOPInstanceUID = CTImageStorage, about.MediaStorageSOPInstanceUID
    found.Rows, found.Columns = pixels.shape[:2]
    bits = 8 * pixels.dtype.itemsize
    found.BitsAllocated = found.BitsStored = bits
    found.HighBit = bits - 1
    found.PixelRepresentation = int(pixels.dtype.kind == "i")
    found.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    found.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        found.PlanarConfiguration = 0
    found.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(found, name, value)
    if syntax == RLELossless:
        found.compress(syntax)
    else:
        about.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    if syntax == JPEGLSLossless:
        found.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8" + bytes(20)])
        found["PixelData"].VR = "OB"
    pydicom.dcmwrite(stream, found, enforce_file_format=True)
    return stream.getvalue()


def pixels(data: bytes, window: tuple[float, float] | None = (0, 4095)) -> Any:
    return decode(data, Fit(window=window)).pixels


def refused(data: bytes, window: tuple[float, float] | None = (0, 4095)) -> str:
    with pytest.raises(BadImageError) as caught:
        pixels(data, window)
    assert MARK not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_stored_values_go_through_the_window(syntax: str) -> None:
    assert pixels(dicom(syntax=syntax)).tolist() == [[0, 62], [125, 255]]


def test_the_window_is_in_rescaled_units_and_signed_values_are_signed() -> None:
    hounsfield = np.array([[-1000, 0], [400, 3000]], np.int16)
    assert pixels(dicom(hounsfield), (-1000, 400)).tolist() == [[0, 182], [255, 255]]
    stored = (hounsfield + 1024).astype(np.uint16)
    data = dicom(stored, RescaleSlope="1", RescaleIntercept="-1024")
    assert pixels(data, (-1000, 400)).tolist() == [[0, 182], [255, 255]]


def test_monochrome1_is_turned_over_and_colour_and_8_bits_stay_as_they_are() -> None:
    data = dicom(PhotometricInterpretation="MONOCHROME1")
    assert pixels(data).tolist() == [[255, 193], [130, 0]]
    grey = np.array([[0, 7], [100, 255]], np.uint8)
    assert pixels(dicom(grey), None).tolist() == grey.tolist()
    colour = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert pixels(dicom(colour), None).tolist() == colour.tolist()


def test_a_window_that_the_file_proposes_is_not_taken() -> None:
    data = dicom(WindowCenter="40", WindowWidth="400")
    assert refused(data, None) == NO_WINDOW
    assert pixels(data).tolist() == pixels(dicom()).tolist()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (lambda: dicom(NumberOfFrames=2, PixelData=2 * VALUES.tobytes()), "several frames"),
        (lambda: dicom(PhotometricInterpretation="PALETTE COLOR"), "colour table"),
        (lambda: dicom(syntax=JPEGLSLossless), "cannot be read here (JPEG-LS"),
        (lambda: dicom(syntax=DeflatedExplicitVRLittleEndian), "deflated"),
        (lambda: dicom(PixelData=b""), "without an image"),
        (lambda: dicom(Rows=60000, Columns=60000), "pixels"),
        (lambda: dicom(Rows=3), "damaged DICOM"),
        (lambda: dicom()[:-3], "damaged DICOM"),
        (lambda: dicom()[:200], "DICOM"),
    ],
)
def test_what_cannot_be_read_is_named(data: Any, said: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = data()
    assert said in refused(content)


def test_no_field_of_the_header_is_in_a_message_a_warning_or_a_log(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder, capfd: Any
) -> None:
    """Also when fields are damaged, of which the library speaks."""
    caplog.set_level(logging.DEBUG)
    good = dicom(RescaleSlope="1", RescaleIntercept="0")
    recwarn.clear()
    said = []
    rng = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(good)
        for place in rng.integers(132, len(good), 3):
            broken[place] = rng.integers(256)
        try:
            pixels(bytes(broken))
        except BadImageError as error:
            said.append(str(error))
    said += [str(warning.message) for warning in recwarn]
    assert "ovelac" not in "\n".join([caplog.text, *said, *capfd.readouterr()])
