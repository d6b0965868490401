"""What a release holds: its files and what is packed in them, their words, and the images among their numbers."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import safetensors.torch
from PIL import Image
from torch import Tensor

from dpdm_cli.data import load_images


def files_in(folder: Path) -> list[tuple[str, bytes]]:
    """Names and contents of all files, those in archives too."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found += unpacked(path.relative_to(folder).as_posix(), path.read_bytes())
    return found


def unpacked(name: str, content: bytes) -> list[tuple[str, bytes]]:
    found = [(name, content)]
    if name.endswith((".npz", ".zip")):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                found += unpacked(f"{name}/{member.filename}", archive.read(member))
    if name.endswith(".parquet"):
        for row in pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist():
            found += unpacked(f"{name}/{row['image']['path']}", row["image"]["bytes"])
    return found


def words_of(name: str, content: bytes) -> list[str]:
    """All that a file which may be published says in words; of any other kind there must be none."""
    kind = Path(name).suffix
    if kind in (".json", ".jsonl", ".md"):
        return [content.decode()]
    if kind == ".png":
        with Image.open(io.BytesIO(content)) as picture:
            return [repr(picture.info)]
    if kind in (".npz", ".zip"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            of_members = [bytes(m.comment + m.extra) for m in archive.infolist()]
            return [*archive.namelist(), repr([archive.comment, *of_members])]
    if kind == ".parquet":
        table = pyarrow.parquet.ParquetFile(io.BytesIO(content))
        return [repr(table.metadata.to_dict()), repr(table.schema_arrow.metadata)]
    if kind == ".npy":
        array = np.load(io.BytesIO(content), allow_pickle=False)
        return array.ravel().tolist() if array.dtype.kind == "U" else [str(array.dtype)]
    if kind == ".safetensors":  # its description and the names of its tensors
        return [content[8 : 8 + int.from_bytes(content[:8], "little")].decode()]
    raise AssertionError(f"{name} is of no kind that may be published")


def chunks(png: bytes) -> list[str]:
    """Kinds of a PNG file's parts, equal neighbours once; what lies behind them would be a part too."""
    kinds, place = [], 8
    while place < len(png):
        length = int.from_bytes(png[place : place + 4], "big")
        kinds.append(png[place + 4 : place + 8].decode("latin-1"))
        place += 12 + length
    return [kind for kind, before in zip(kinds, ["", *kinds], strict=False) if kind != before]


def itxt_length(text: str) -> bytes:
    """The first bytes of a chunk that holds an XMP packet and nothing else: its keyword and five zeros."""
    return (len("XML:com.adobe.xmp") + 5 + len(text.encode())).to_bytes(4, "big")


Digests = set[bytes]


def arrays_of(name: str, content: bytes) -> list[np.ndarray]:
    """All that a file holds in numbers."""
    kind = Path(name).suffix
    if kind == ".png":
        with Image.open(io.BytesIO(content)) as picture:
            return [np.asarray(picture)]
    if kind == ".npy":
        array = np.load(io.BytesIO(content), allow_pickle=False)
        return [] if array.dtype.kind == "U" else [array]
    if kind == ".safetensors":
        return [tensor.numpy() for tensor in safetensors.torch.load(content).values()]
    return []


def images_among(array: np.ndarray) -> Digests:
    """SHA-256 of everything in an array that could be an image of 8x8 pixels, in the forms that images come in."""
    found = set()
    if array.size % 64 == 0:
        rows = array.reshape(-1, 64)
        forms = [rows] if array.dtype == np.uint8 else [rows, rows * 255, (rows + 1) * 127.5]
        for form in forms:
            pixels = np.rint(np.clip(form, 0, 255)).astype(np.uint8)
            found |= {hashlib.sha256(row.tobytes()).digest() for row in pixels}
    return found


def images_in_picture(picture: np.ndarray, real: dict[bytes, bytes]) -> Digests:
    """Those of the images, given by their first rows, that lie anywhere in a picture, enlarged up to eight times."""
    found = set()
    first_rows = np.frombuffer(b"".join(real), np.uint64)
    for plane in np.moveaxis(np.atleast_3d(picture), 2, 0):
        for scale in range(1, min(8, *(side // 8 for side in plane.shape)) + 1):
            shape = (8 * scale, 8 * scale)
            windows = np.lib.stride_tricks.sliding_window_view(plane, shape)[..., ::scale, ::scale]
            begins = np.ascontiguousarray(windows[..., 0, :]).view(np.uint64)[..., 0]
            for window in windows[np.isin(begins, first_rows)]:
                found.add(hashlib.sha256(window.tobytes()).digest())
    return found


def training_images_among(files: list[tuple[str, bytes]], folder: Path) -> list[str]:
    """Names of the files that hold one of the images in a folder."""
    real = load_images(str(folder)).images.numpy()
    digests = {hashlib.sha256(image.tobytes()).digest() for image in real}
    first_rows = {image[0, 0].tobytes(): image.tobytes() for image in real}
    found = []
    for name, content in files:
        for array in arrays_of(name, content):
            there = images_among(array)
            if name.endswith(".png"):
                there |= images_in_picture(array, first_rows)
            found += [name] * bool(there & digests)
    return found


def shape_of_release(folder: Path) -> dict[str, Any]:
    """All about a release that is not weights and pixels: names, sizes, keys and shapes."""
    shapes: dict[str, Any] = {}
    for name, content in files_in(folder):
        if name.endswith(".json"):
            shapes[name] = without_digests(json.loads(content))
        elif name.endswith(".safetensors"):
            tensors: dict[str, Tensor] = safetensors.torch.load(content)
            described = {key: (t.dtype, t.shape) for key, t in tensors.items()}
            shapes[name] = len(content), described
        elif name.endswith(".npy"):
            array = np.load(io.BytesIO(content), allow_pickle=False)
            shapes[name] = array.dtype, array.shape
        elif name.endswith(".png"):
            with Image.open(io.BytesIO(content)) as picture:
                shapes[name] = picture.mode, picture.size, chunks(content)
        elif name.endswith(".parquet"):
            table = pyarrow.parquet.read_table(io.BytesIO(content))
            shapes[name] = table.num_rows, without_digests(repr(table.schema.metadata))
        elif name.endswith(".md"):
            shapes[name] = re.sub(r"\b[0-9a-f]{64}\b", "<digest>", content.decode())
        else:
            shapes[name] = words_of(name, content)
    return shapes


def without_digests(value: object) -> object:
    """JSON with a word in the place of hexadecimal digests, of whatever length."""
    text = json.dumps(value)
    return json.loads(re.sub(r"\b([0-9a-f]{64}|[0-9a-f]{32})\b", "<digest>", text))
