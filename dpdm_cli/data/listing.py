"""From a name or a path to the list of images to read, before any pixel is read. Knows which reader reads what."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpdm_cli.choices import Split
from dpdm_cli.data.class_names import is_class_name
from dpdm_cli.data.decoding import Fit, Pixels
from dpdm_cli.data.labelling.labelled import label
from dpdm_cli.data.layout import Entry
from dpdm_cli.data.named import NAMED, NamedSet
from dpdm_cli.data.readers.archives import read_archive
from dpdm_cli.data.readers.arrays import read_arrays
from dpdm_cli.data.readers.folders import read_folder
from dpdm_cli.data.readers.parquet import read_parquet
from dpdm_cli.data.readers.public_sets import default_data_dir, read_named
from dpdm_cli.data.reading import Reading
from dpdm_cli.errors import DataError, UsageError
from dpdm_cli.files import expanded, refuse_run
from dpdm_cli.reporter import Reporter, SilentReporter


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of one split, not decoded.

    Attributes:
        name: short name.
        where: their source, for messages.
        images: files; or pixels, uint8 [N, H, W] or [N, H, W, 3], of sources that hold arrays.
        labels: int64 [N] with values in [0, len(classes)), or None when unconditional.
        classes: names in label order; empty when unconditional.
        fit: size and channels wanted, the source's own defaults included.
        persons: int64 [N], the number of the person of each image, from 0 on; None when persons are not known.
        person_digests: of each person's name, by number, to tell persons by that are in two listings.
    """

    name: str
    where: str
    images: Sequence[Entry] | Pixels
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    fit: Fit
    persons: NDArray[np.int64] | None = None
    person_digests: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def title(self, index: int) -> str:
        """What to call one image: the path of its file, or its number."""
        if isinstance(self.images, np.ndarray):
            return f"image {index}"
        return str(self.images[index])

    def part(self, indices: NDArray[np.int64]) -> Listing:
        """Some of the images, of the same classes; persons are numbered anew."""
        images, persons = self.images, self.persons
        digests = self.person_digests
        if persons is not None:
            known, persons = numbered(persons[indices])
            digests = tuple(digests[number] for number in known)
        return replace(
            self,
            images=images[indices]
            if isinstance(images, np.ndarray)
            else [images[index] for index in indices],
            labels=None if self.labels is None else self.labels[indices],
            persons=persons,
            person_digests=digests,
        )

    def digest(self) -> str:
        """SHA-256 of the source, without reading a file: paths, sizes, and times of change or checksums.

        Arrays are in memory; for them it covers all values.
        """
        digest = hashlib.sha256()
        if isinstance(self.images, np.ndarray):
            digest.update(str(self.images.shape).encode())
            digest.update(np.ascontiguousarray(self.images).data)
        else:
            for entry in self.images:
                line = f"{'/'.join(entry.path)}\0{entry.facts()}\n"
                digest.update(line.encode("utf-8", "surrogateescape"))
        for numbers in (self.labels, self.persons):
            if numbers is not None:
                digest.update(numbers.data)
        return digest.hexdigest()


def numbered(persons: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Who is among the persons of some images, sorted, and the place of each image's in that, int64 [N]."""
    known, places = np.unique(persons, return_inverse=True)
    return known, places.astype(np.int64)


def list_images(
    source: str | Path,
    *,
    split: Split = "train",
    data_dir: Path | None = None,
    download: bool = True,
    fit: Fit,
    classes: Sequence[str] | None = None,
    reading: Reading | None = None,
    reporter: Reporter | None = None,
) -> Listing:
    """Find the images of a split, their classes and, where that is said, their persons.

    Args:
        source, split, data_dir, download, classes, reading, reporter: as for `load_images`.
        fit: size and channels wanted.

    Raises:
        UsageError: options that do not make sense.
        DataError: the data do not exist or are not laid out as a data set.
        ResourceError: a download failed, or arrays are larger than the memory.
    """
    if split not in ("train", "test"):
        raise UsageError(f"split must be train or test, found {split!r}")
    declared = checked_classes(classes)
    reading = reading or Reading()
    name = str(source)
    if name in NAMED:
        check_no_files(name, reading, fit)
        facts = NAMED[name]
        _check_own_classes(facts, declared)
        return _named(facts, split, data_dir, download, fit)
    path = expanded(name)
    # os.path answers False where pathlib raises: for names that are too long, or below folders that may not be entered.
    if not name or not os.path.exists(path):
        raise _nothing_there(name)
    suffix = path.suffix.lower()
    tree = None
    if os.path.isdir(path):
        refuse_run(path)
        tree = read_folder(path)
    elif os.path.isfile(path) and suffix == ".npz":
        check_no_files(name, reading, fit)
        return _from_arrays(path, split, declared, fit)
    elif os.path.isfile(path) and suffix == ".parquet":
        check_no_files(name, reading, fit)
        return _from_parquet(path, split, declared, fit)
    elif os.path.isfile(path) and (suffix == ".zip" or zipfile.is_zipfile(path)):
        tree = read_archive(path)
    if tree is not None:
        found = label(path, tree, split, declared, reading, reporter or SilentReporter())
        return Listing(
            path.resolve().stem,
            str(path),
            found.entries,
            found.labels,
            found.classes,
            fit,
            found.persons,
            found.person_digests,
        )
    raise DataError(
        f"{path} is neither a folder, a zip, an .npz nor a prepared .safetensors file",
        f"Give one of these, or one of {', '.join(NAMED)}. A single image goes into a folder.",
    )


def _named(
    facts: NamedSet, split: Split, data_dir: Path | None, download: bool, fit: Fit
) -> Listing:
    if facts.name == "celeba" and fit.image_size is None:
        fit = replace(fit, image_size=facts.image_size)
    folder = default_data_dir() if data_dir is None else expanded(data_dir)
    images, labels = read_named(facts, split, folder, download)
    where = f"{facts.name} ({folder})"
    return Listing(facts.name, where, images, labels, facts.classes, fit)


def _from_arrays(path: Path, split: Split, classes: tuple[str, ...] | None, fit: Fit) -> Listing:
    _check_undivided(path, split)
    arrays = read_arrays(path, classes)
    return Listing(
        path.resolve().stem,
        str(path),
        arrays.pixels,
        arrays.labels,
        arrays.classes,
        fit,
        arrays.persons,
    )


def _from_parquet(path: Path, split: Split, classes: tuple[str, ...] | None, fit: Fit) -> Listing:
    _check_undivided(path, split)
    table = read_parquet(path, classes)
    return Listing(path.resolve().stem, str(path), table.entries, table.labels, table.classes, fit)


def _check_undivided(path: Path, split: Split) -> None:
    if split == "test":
        raise DataError(f"{path} has no test split", "Name the file that holds the test images.")


def check_no_files(name: str, reading: Reading, fit: Fit) -> None:
    """Refuse what says how files are read, of a source that is no files.

    Raises:
        UsageError: something was said.
    """
    said = reading.given()
    said.pop("skip_bad", None)  # there is nothing to skip
    if fit.window is not None:
        said["window"] = fit.window
    if said:
        raise UsageError(
            f"{', '.join('--' + each.replace('_', '-') for each in said)}: {name} is not a folder or zip of files",
            "Leave it out.",
        )


def checked_classes(classes: Sequence[str] | None) -> tuple[str, ...] | None:
    """Declared class names, as a tuple.

    Raises:
        UsageError: none, the same twice, or one that cannot be the name of a folder.
    """
    if classes is None:
        return None
    names = tuple(classes)
    if not names or isinstance(classes, str) or len(set(names)) != len(names):
        raise UsageError(
            f"classes must be different names, found {classes!r}", "For example: cats, dogs."
        )
    odd = [name for name in names if not is_class_name(name)]
    if odd:
        raise UsageError(
            f"class names must be usable as folder names, found {odd[0]!r}",
            "They are printable, without slash or backslash, and do not begin with a dot.",
        )
    return names


def _check_own_classes(facts: NamedSet, classes: tuple[str, ...] | None) -> None:
    if classes is not None and classes != facts.classes:
        own = ", ".join(facts.classes) or "none: it is unconditional"
        raise UsageError(
            f"{facts.name} has its own classes ({own}), found {', '.join(classes)}",
            "Leave out the classes for a named set.",
        )


def _nothing_there(name: str) -> DataError:
    close = get_close_matches(name.lower().replace("_", "-"), NAMED, n=1, cutoff=0.6)
    if close:
        return DataError(f"there is no data set or path {name!r}", f"Did you mean {close[0]}?")
    return DataError(
        f"there is no data set or path {name!r}",
        f"Give one of {', '.join(NAMED)}, or the path of a folder, zip, .npz or prepared .safetensors file.",
    )
