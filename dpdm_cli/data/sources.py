"""What a source of images holds, by its names and metadata. Reads no pixel."""

from __future__ import annotations

import os
import zipfile
from dataclasses import replace
from pathlib import Path

from dpdm_cli.choices import Split
from dpdm_cli.data.decoding import Fit
from dpdm_cli.data.layout import Tree, splits_in
from dpdm_cli.data.listing import list_images
from dpdm_cli.data.loading import load_images
from dpdm_cli.data.named import NAMED
from dpdm_cli.data.prepare.prepared import SUFFIX, PreparedFile
from dpdm_cli.data.readers.archives import read_archive
from dpdm_cli.data.readers.folders import read_folder
from dpdm_cli.data.reading import Reading
from dpdm_cli.errors import DamagedFileError, DataError
from dpdm_cli.files import expanded, read_json, refuse_run
from dpdm_cli.reporter import Reporter
from dpdm_cli.stored import Json, parse_json

SAMPLES = "dpdm samples"
"""What `metadata.json` of a set that `dpdm sample` drew says it is."""

_METADATA = "metadata.json"
_SINGLE_FILES = {"samples.npz", "samples.zip", "samples.parquet"}
_NO_TREES = frozenset({".npz", ".parquet", ".safetensors"})  # whose bytes may look like a zip


def splits_of(source: str | Path) -> tuple[str, ...]:
    """Which of `train` and `test` a source holds; `()` when it is not divided, as no set of `dpdm sample` is.

    Args:
        source: as for `dpdm_cli.data.load_images`, which judges whether it can be used at all.
    """
    if str(source) in NAMED:
        return ("train", "test")
    tree = _tree(expanded(source))
    splits = () if tree is None else splits_in(tree)
    return () if splits == ("train",) and _is_of_samples(source) else splits


def classes_of(source: str | Path, split: Split) -> tuple[str, ...]:
    """Names of a source's classes in label order, as `load_images` would give them; `()` for none.

    Raises:
        DataError: there is no such split, or its files are not laid out as a data set.
    """
    if str(source) in NAMED:
        return NAMED[str(source)].classes
    if _tree(expanded(source)) is None:
        return load_images(source, split=split).classes
    return list_images(source, split=split, fit=Fit()).classes


def size_of(
    source: str | Path, reading: Reading | None = None, reporter: Reporter | None = None
) -> int:
    """How many images a source's `train` split holds; decodes none of them, and leaves out what a table does not know.

    Args:
        source, reading, reporter: as for `dpdm_cli.data.load_images`.

    Raises:
        UsageError, DataError, DamagedFileError, ResourceError: as `load_images`.
    """
    path = expanded(source)
    if str(source) not in NAMED and path.suffix.lower() == SUFFIX and path.is_file():
        return PreparedFile(path).facts.shape[0]
    reading = replace(reading or Reading(), skip_bad=True)
    return len(list_images(source, fit=Fit(), reading=reading, reporter=reporter))


def held_out_beside(source: str | Path) -> str | None:
    """The file that holds what was held out of a prepared file; None if nothing was, or this is it."""
    path = expanded(source)
    if str(source) in NAMED or path.suffix.lower() != SUFFIX or not path.is_file():
        return None
    part = PreparedFile(path).facts.held_out
    return None if part is None or part.is_held_out else part.other


def samples_in(source: str | Path) -> str | Path:
    """`source`; or the npz, zip or parquet in it, when `dpdm sample` wrote one into that folder.

    Raises:
        DataError: `dpdm sample` has not finished there, or it is the folder of a run.
        DamagedFileError: see `sample_metadata`.
    """
    folder = expanded(source)
    _refuse_others(folder)
    if (folder / _METADATA).is_file():
        file = folder / f"samples.{sample_metadata(folder).get('format')}"
        if file.name in _SINGLE_FILES and file.is_file():
            return file
    return source


def sample_metadata(source: str | Path) -> Json:
    """What `dpdm sample` wrote about a set of samples; empty when there is no such file.

    It is `metadata.json` in the folder or zip, or beside an .npz, .parquet or zip file.

    Raises:
        DataError: as `samples_in`.
        DamagedFileError: the file is not a JSON object.
    """
    path = expanded(source)
    _refuse_others(path)
    hint = "draw the samples again, or delete it"
    file = (path if path.is_dir() else path.parent) / _METADATA
    tree = _tree(path) if path.is_file() else None
    inside = [e for e in tree.entries if e.path[-1] == _METADATA] if tree else []
    if inside:
        return parse_json(inside[0].read(), f"{source}: {_METADATA}", hint=hint)
    if path.exists() and file.is_file():
        return read_json(file, hint=hint, bare=False)
    return {}


def _is_of_samples(source: str | Path) -> bool:
    try:
        return sample_metadata(source).get("kind") == SAMPLES
    except DamagedFileError:  # the file of somebody's own images
        return False


def _refuse_others(path: Path) -> None:
    refuse_run(path)
    if os.path.isdir(path) and any(path.glob(".sampling*.json")):
        raise DataError(
            f"{path}: these samples are not complete", "repeat the same `dpdm sample` first"
        )


def _tree(path: Path) -> Tree | None:
    refuse_run(path)
    if path.is_dir():
        return read_folder(path)
    if path.is_file() and path.suffix.lower() not in _NO_TREES and zipfile.is_zipfile(path):
        return read_archive(path)
    return None
