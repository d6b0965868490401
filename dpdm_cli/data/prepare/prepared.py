"""Prepared images: one safetensors file that is mapped into memory and not read.

images   U8 [N, C, H, W], at the start of a page
padding  U8 [up to 7], where labels or persons would not be aligned
labels   I64 [N], when there are classes
persons  I64 [N], when it is known whom images are of, as numbers that stand for no name

The header's metadata holds one JSON entry, the `Facts`. The header has a place of a size known
before the first image is, and is written into it last: no image is written twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpdm_cli.choices import Split
from dpdm_cli.data.class_names import check_classes
from dpdm_cli.data.decoding import Fit
from dpdm_cli.data.images import ImageSet, renamed
from dpdm_cli.data.prepare.holding_out import HoldOut
from dpdm_cli.errors import DamagedFileError, DataError, UsageError
from dpdm_cli.stored import Json, json_digest, parse_json, understood

SUFFIX = ".safetensors"
KIND = "dpdm prepared images"
FORMAT = 2

_KEY, _METADATA, _DIGEST = "dpdm", "__metadata__", "facts_sha256"
_SINCE_2 = ("window", "persons_sha256", "held_out")
_PAGE = 4096
_FOR_FACTS = 1 << 16  # bytes; the names of classes come on top
_LONGEST_HEADER = 100_000_000  # bytes, as safetensors has it
_BLOCK = 1 << 22
_LONGEST_REASON = 300  # characters: 20 of them, escaped twice, fit into the header's place
_HINT = "It is not what was written: copy it again, or remove it and prepare it again."

Shape = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a prepared file says about itself.

    Attributes:
        shape: (N, C, H, W).
        classes: names in label order; empty without labels.
        split: which split of the source it is.
        image_size, channels, window: the fit that was asked for, None for as the images were.
        source: short name of the source.
        source_sha256: of the source, see `Listing.digest`.
        images_sha256, labels_sha256, persons_sha256: of their bytes in the file; None without labels or persons.
        duplicates: how many images equal an earlier one.
        bad: how many files were left out since they could not be used.
        first_bad: the first 20 of these, with their reasons.
        written_by: program and version.
        held_out: which part of the source this is; None for all of it.
    """

    shape: Shape
    classes: tuple[str, ...]
    split: str
    image_size: int | None
    channels: int | None
    source: str
    source_sha256: str
    images_sha256: str
    labels_sha256: str | None
    duplicates: int
    bad: int
    first_bad: tuple[str, ...]
    written_by: str
    window: tuple[float, float] | None = None
    persons_sha256: str | None = None
    held_out: HoldOut | None = None

    @property
    def content(self) -> str:
        """One SHA-256 of images, labels and persons."""
        persons = [self.persons_sha256] if self.persons_sha256 else []
        return json_digest([list(self.shape), self.images_sha256, self.labels_sha256, *persons])

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the tensors that hold a number for each image."""
        found = {"labels": self.labels_sha256, "persons": self.persons_sha256}
        return tuple(name for name, digest in found.items() if digest is not None)


def reserved_bytes(classes: Sequence[str]) -> int:
    """Where the images of a file begin, whatever else will be known of them; whole pages."""
    names = len(_json(_json(list(classes))).encode())
    return math.ceil((_FOR_FACTS + names) / _PAGE) * _PAGE


def header_of(facts: Facts) -> bytes:
    """The start of the file, as long as `reserved_bytes` says."""
    facts_of = asdict(facts)
    del facts_of["shape"]
    facts_of["first_bad"] = [_shortened(line) for line in facts.first_bad]
    facts_of = {"kind": KIND, "format": FORMAT, **facts_of}
    text = _json({**facts_of, _DIGEST: json_digest(facts_of)})
    tensors = _tensors(facts.shape, facts.numbers)
    header = _json({_METADATA: {_KEY: text}, **tensors}).encode()
    length = reserved_bytes(facts.classes) - 8
    assert len(header) <= length
    return length.to_bytes(8, "little") + header.ljust(length)


def padding_of(shape: Shape) -> int:
    """Bytes between images and what follows."""
    return -math.prod(shape) % 8


def load_prepared(
    path: Path, *, split: Split = "train", fit: Fit | None = None, classes: Sequence[str] | None
) -> ImageSet:
    """Map a prepared file. Reads its header and labels, no image.

    Args:
        path: the file.
        split: a file holds the one split that it was prepared from, and has no other.
        fit: what is wanted; what the file was not prepared with is refused.
        classes: the declared names in label order; labels are carried over to them by name.

    Raises:
        UsageError: another size or number of channels is asked for, or classes of a file without labels.
        DataError: a safetensors file that does not hold prepared images; the test split; an image of a class that is
            not declared.
        DamagedFileError: truncated, or not what was written.
    """
    file = PreparedFile(path)
    if split == "test":
        part = file.facts.held_out
        other = f", {part.other}" if part and not part.is_held_out else ""
        raise DataError(
            f"{path} has no test split", f"Name the file that holds the test images{other}."
        )
    _, channels, height, width = file.facts.shape
    wanted = fit or Fit()
    side = wanted.image_size
    if side is not None and (height, width) != (side, side):
        raise _not_prepared(path, f"images of {height}x{width} pixels", f"{side}x{side}")
    if wanted.channels not in (None, channels):
        raise _not_prepared(path, f"images of {channels} channels", str(wanted.channels))
    if wanted.window not in (None, file.facts.window):
        raise _not_prepared(path, f"the window {file.facts.window}", str(wanted.window))
    own, labels = file.facts.classes, file.labels
    order = own if classes is None else tuple(classes)
    if order != own:
        if labels is None:
            raise _not_prepared(path, "no classes", ", ".join(order))
        labels = torch.from_numpy(renamed(str(path), labels.numpy(), own, order))
    return ImageSet(
        name=path.resolve().stem,
        images=file.images,
        labels=labels,
        classes=order,
        content=file.facts.content,
        duplicates=file.facts.duplicates,
        storage=file,
        persons=file.persons,
    )


class PreparedFile:
    """An open prepared file.

    Args:
        path: the file.

    Attributes:
        facts: what it says about itself.
        images: uint8 [N, C, H, W], mapped; must not be written to.
        labels: int64 [N] in memory, compared with their SHA-256; None when unconditional.
        persons: the same; None when they are not known.

    Raises:
        DataError: a safetensors file that does not hold prepared images.
        DamagedFileError: truncated, or not what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
            try:
                size = os.fstat(self._file.fileno()).st_size
                self.facts, self._start = self._read_header(size)
                self.labels, self.persons = self._read_numbers()
                # Not copy-on-write, for which a system may want as much memory as the file has.
                self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise DataError(
                f"{path} cannot be read: {error.strerror or error}", "Check its permissions."
            ) from None
        with warnings.catch_warnings():
            # torch warns that the buffer cannot be written to.
            warnings.simplefilter("ignore")
            flat = torch.frombuffer(
                self._map, dtype=torch.uint8, count=math.prod(self.facts.shape), offset=self._start
            )
        self.images = flat.view(self.facts.shape)

    def rows(self, indices: Tensor) -> Tensor:
        """Read some of the images.

        By calls and not through the map: reading through it costs several times as much, for
        faults, and keeps what was read resident; and a file that was cut meanwhile would end the
        process.

        Args:
            indices: int64 [B] with values in [0, N).

        Returns:
            uint8 [B, C, H, W].

        Raises:
            IndexError: an index is out of range.
            DamagedFileError: the file cannot be read, or has been cut.
        """
        count, *shape = self.facts.shape
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < count:
            raise IndexError(f"indices from {indices.min()} to {indices.max()} of {count} images")
        if not hasattr(os, "preadv"):
            return self.images.index_select(0, indices)
        chosen = torch.empty((len(indices), *shape), dtype=torch.uint8)
        size, file = math.prod(shape), self._file.fileno()
        places = [self._start + index * size for index in indices.tolist()]
        try:
            if hasattr(os, "posix_fadvise"):
                # All are requested before the first is waited for, so that the disk has many to serve.
                for place in places:
                    os.posix_fadvise(file, place, size, os.POSIX_FADV_WILLNEED)
            for row, place in zip(chosen.numpy().reshape(-1, size), places, strict=True):
                if os.preadv(file, [row.data], place) < size:
                    raise self._damaged("it has been cut since it was opened")
        except OSError as error:
            raise self._damaged(f"it cannot be read ({error.strerror or error})") from None
        return chosen

    def verify(self) -> None:
        """Read all images and labels, and compare their SHA-256.

        Raises:
            DamagedFileError: they are not what was written.
        """
        digest = hashlib.sha256()
        left = math.prod(self.facts.shape)
        try:
            self._file.seek(self._start)
            while left and (block := self._file.read(min(left, _BLOCK))):
                digest.update(block)
                left -= len(block)
        except OSError as error:
            raise self._damaged(f"it cannot be read ({error.strerror or error})") from None
        if digest.hexdigest() != self.facts.images_sha256:
            raise self._damaged("the SHA-256 of its images is not the one written")
        self._read_numbers()

    def _read_header(self, size: int) -> tuple[Facts, int]:
        length = int.from_bytes(self._file.read(8), "little")
        if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            raise self._damaged("it has no safetensors header")
        try:
            header = parse_json(self._file.read(length), "header", most=_LONGEST_HEADER)
            metadata = header.pop(_METADATA, None)
            text = metadata.get(_KEY) if isinstance(metadata, dict) else None
            described = parse_json(str(text), "facts", most=_LONGEST_HEADER) if text else {}
            kind = described.get("kind")
        except DamagedFileError:
            raise self._damaged("its header is not readable") from None
        if kind != KIND:
            what = f"a {kind} file" if kind else "a safetensors file"
            raise DataError(
                f"{self.path} is {what}, not one of prepared images",
                "`dpdm prepare` makes one from a folder, a zip or an .npz file.",
            )
        if described.get("format") not in (1, FORMAT):
            raise DataError(
                f"{self.path} is of format {described.get('format')!r}, {FORMAT} is expected",
                "Another version of dpdm wrote it: prepare it again.",
            )
        facts = self._facts(described, header)
        if header != _tensors(facts.shape, facts.numbers):
            raise self._damaged("its tensors are not where they should be")
        end = 8 + length + _data_bytes(facts.shape, facts.numbers)
        if size != end:
            raise self._damaged(f"it has {size:,} bytes of {end:,}")
        return facts, 8 + length

    def _facts(self, described: Json, header: Json) -> Facts:
        written = described.pop(_DIGEST, None)
        if written != json_digest(described):
            raise self._damaged("the SHA-256 of its description is not the one written")
        own = {name: value for name, value in described.items() if name not in ("kind", "format")}
        if described.get("format") == 1:
            own = {**dict.fromkeys(_SINCE_2), **own}
        try:
            images = header.get("images")
            shape = images.get("shape") if isinstance(images, dict) else None
            facts = understood(Facts, {**own, "shape": shape}, "its description")
        except DamagedFileError as error:
            raise self._damaged(error.message) from None
        if min(*facts.shape, facts.duplicates + 1, facts.bad + 1) < 1:
            raise self._damaged("its description counts less than nothing")
        if (facts.labels_sha256 is None) != (not facts.classes):
            raise self._damaged(
                "its description has classes without labels, or the other way round"
            )
        try:
            check_classes(facts.classes)
        except ValueError:
            raise self._damaged("its description holds names that no class has") from None
        return facts

    def _read_numbers(self) -> tuple[Tensor | None, Tensor | None]:
        """Labels and persons."""
        facts = self.facts
        self._file.seek(self._start + math.prod(facts.shape) + padding_of(facts.shape))
        return (
            self._read_tensor("labels", facts.labels_sha256),
            self._read_tensor("persons", facts.persons_sha256),
        )

    def _read_tensor(self, name: str, digest: str | None) -> Tensor | None:
        if digest is None:
            return None
        content = self._file.read(8 * self.facts.shape[0])
        if hashlib.sha256(content).hexdigest() != digest:
            raise self._damaged(f"the SHA-256 of its {name} is not the one written")
        return torch.from_numpy(np.frombuffer(content, "<i8").astype(np.int64))

    def _damaged(self, what: str) -> DamagedFileError:
        return DamagedFileError(f"{self.path} is damaged: {what}", _HINT)


def _tensors(shape: Shape, numbers: Sequence[str]) -> Json:
    """The header's entries; safetensors allows no gap between tensors."""
    end = math.prod(shape)
    tensors: Json = {"images": {"dtype": "U8", "shape": list(shape), "data_offsets": [0, end]}}
    padding, count = padding_of(shape), shape[0]
    if numbers and padding:
        offsets = [end, end + padding]
        tensors["padding"] = {"dtype": "U8", "shape": [padding], "data_offsets": offsets}
    start = end + padding
    for name in numbers:
        offsets = [start, start + 8 * count]
        tensors[name] = {"dtype": "I64", "shape": [count], "data_offsets": offsets}
        start += 8 * count
    return tensors


def _data_bytes(shape: Shape, numbers: Sequence[str]) -> int:
    return math.prod(shape) + (padding_of(shape) + 8 * shape[0] * len(numbers) if numbers else 0)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"


def _not_prepared(path: Path, found: str, wanted: str) -> UsageError:
    return UsageError(
        f"{path} was prepared with {found}, asked for is {wanted}",
        "Leave the option out, or prepare the images again with it.",
    )
