"""Folders of real MNIST images as hospitals have them: labels here and there, several images a person, 16 bits, DICOM.

python make_folders.py FOLDER COUNT

COUNT images go into `classes`, at most 300 into each of the others.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from dpdm_cli.data import load_images

Pixels = NDArray[np.uint8]
MOST = 300
NAMES = ("ada", "ben", "cleo", "dov", "eva", "finn", "gil")


def main(folder: Path, count: int) -> None:
    digits = load_images("mnist")
    assert digits.labels is not None
    images = digits.images[:count, 0].numpy()
    labels = [digits.classes[int(label)] for label in digits.labels[:count]]
    rows = list(zip([f"{i:05}" for i in range(count)], labels, images, strict=True))

    for name, label, pixels in rows:
        write(folder / "classes" / label / f"{name}.png", png(pixels, 28 + int(name) % 9))
    rows = rows[:MOST]
    for name, label, pixels in rows:
        write(folder / "csv" / f"{name}.png", png(pixels))
        write(folder / "metadata" / "images" / f"{name}.png", png(pixels))
        write(folder / "persons" / label / person(name) / f"{name}.png", png(pixels))
        write(folder / "persons-first" / person(name) / label / f"{name}.png", png(pixels))
        kind = ("PNG", "TIFF")[int(name) % 2]
        write(folder / "deep" / label / f"{name}.{kind.lower()}", deep(pixels, kind))
        write(folder / "dicom" / label / f"{name}.dcm", dicom(pixels, person(name)))
        write(folder / "broken" / label / f"{name}.png", png(pixels))
    table(folder / "csv" / "findings.csv", ["scan", "finding", "patient"],
          [[f"{name}.png", label, person(name)] for name, label, _ in rows])  # fmt: skip
    table(folder / "metadata" / "metadata.csv", ["file_name", "label"],
          [[f"images/{name}.png", label] for name, label, _ in rows])  # fmt: skip
    for name, data in broken(rows[0][2]):
        write(folder / "broken" / "0" / name, data)


def person(name: str) -> str:
    """Three images each."""
    number = int(name) // 3
    return f"{NAMES[number % len(NAMES)]}-{number}"


def png(pixels: Pixels, side: int = 28) -> bytes:
    return encoded(Image.fromarray(pixels).resize((side, side)), "PNG")


def deep(pixels: Pixels, kind: str) -> bytes:
    """12 of 16 bits, as a scanner writes them."""
    return encoded(Image.fromarray(pixels.astype(np.uint16) * 16), kind)


def dicom(pixels: Pixels, who: str) -> bytes:
    """A CT slice, in Hounsfield's units from -1000 on."""
    about = FileMetaDataset()
    about.MediaStorageSOPClassUID = CTImageStorage
    about.MediaStorageSOPInstanceUID = generate_uid()
    about.TransferSyntaxUID = ExplicitVRLittleEndian
    found = FileDataset("", Dataset(), file_meta=about, preamble=b"\0" * 128)
    found.PatientName, found.PatientID = who, who
    found.Rows, found.Columns = pixels.shape
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 12, 11, 0
    found.RescaleSlope, found.RescaleIntercept = 1, -1000
    found.PixelData = (pixels.astype("<u2") * 8).tobytes()
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, found, enforce_file_format=True)
    return stream.getvalue()


def broken(pixels: Pixels) -> Iterator[tuple[str, bytes]]:
    """Files that cannot be used, each for another reason."""
    good = png(pixels)
    yield "empty.png", b""
    yield "cut.png", good[: len(good) // 2]
    yield "text.png", b"not an image"
    yield "clear.png", encoded(Image.fromarray(pixels).convert("RGBA"), "PNG")
    frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
    stream = io.BytesIO()
    frames[0].save(stream, "TIFF", save_all=True, append_images=frames[1:])
    yield "frames.tif", stream.getvalue()


def encoded(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def table(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
