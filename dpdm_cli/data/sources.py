"""What a source of images holds, by its names and metadata. Reads no pixel."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from dpdm_cli.choices import Split
from dpdm_cli.data.decoding import Fit
from dpdm_cli.data.layout import Tree, arrange, splits_in
from dpdm_cli.data.listing import list_images
from dpdm_cli.data.loading import load_images
from dpdm_cli.data.named import NAMED
from dpdm_cli.data.prepare.prepared import SUFFIX, PreparedFile
from dpdm_cli.data.readers.archives import read_archive
from dpdm_cli.data.readers.folders import read_folder
from dpdm_cli.errors import DataError
from dpdm_cli.files import expanded, refuse_run
from dpdm_cli.stored import Json, parse_json

_METADATA = "metadata.json"
_SINGLE_FILES = {"samples.npz", "samples.zip"}
_NO_TREES = frozenset({".npz", ".safetensors"})  # whose bytes may look like a zip


def splits_of(source: str | Path) -> tuple[str, ...]:
    """Which of `train` and `test` a source holds; `()` when it is not divided.

    Args:
        source: as for `dpdm_cli.data.load_images`, which judges whether it can be used at all.
    """
    if str(source) in NAMED:
        return ("train", "test")
    tree = _tree(expanded(source))
    return () if tree is None else splits_in(tree)


def classes_of(source: str | Path, split: Split) -> tuple[str, ...]:
    """Names of a source's classes in label order, as `load_images` would give them; `()` for none.

    Raises:
        DataError: there is no such split, or its files are not laid out as a data set.
    """
    if str(source) in NAMED:
        return NAMED[str(source)].classes
    tree = _tree(expanded(source))
    if tree is None:
        return load_images(source, split=split).classes
    return arrange(tree, split, None).classes


def size_of(source: str | Path) -> int:
    """How many images a source's `train` split holds; decodes none of them.

    Raises:
        UsageError, DataError, DamagedFileError, ResourceError: as `load_images`.
    """
    path = expanded(source)
    if str(source) not in NAMED and path.suffix.lower() == SUFFIX and path.is_file():
        return PreparedFile(path).facts.shape[0]
    return len(list_images(source, fit=Fit()))


def samples_in(source: str | Path) -> str | Path:
    """`source`; or the npz or zip in it, when `dpdm sample` wrote one into that folder.

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

    It is `metadata.json` in the folder or zip, or beside an .npz or zip file.

    Raises:
        DataError: as `samples_in`.
        DamagedFileError: the file is not a JSON object.
    """
    path = expanded(source)
    _refuse_others(path)
    text = None
    if path.is_dir() and (path / _METADATA).is_file():
        text = (path / _METADATA).read_bytes()
    elif path.is_file():
        tree = _tree(path)
        inside = [e for e in tree.entries if e.path[-1] == _METADATA] if tree else []
        beside = path.with_name(_METADATA)
        if inside:
            text = inside[0].read()
        elif beside.is_file():
            text = beside.read_bytes()
    if text is None:
        return {}
    return parse_json(text, f"{source}: {_METADATA}", hint="draw the samples again, or delete it")


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
