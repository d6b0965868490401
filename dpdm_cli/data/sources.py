"""What a source of images holds, by its names and metadata. Reads no pixel."""

from __future__ import annotations

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
from dpdm_cli.files import expanded
from dpdm_cli.reporter import Reporter
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
    """`source`; or the npz or zip in it, when `dpdm sample` wrote one into that folder."""
    folder = expanded(source)
    if (folder / _METADATA).is_file():
        file = folder / f"samples.{sample_metadata(folder).get('format')}"
        if file.name in _SINGLE_FILES and file.is_file():
            return file
    return source


def sample_metadata(source: str | Path) -> Json:
    """What `dpdm sample` wrote about a set of samples; empty when there is no such file.

    It is `metadata.json` in the folder or zip, or beside an .npz or zip file.

    Raises:
        DamagedFileError: the file is not a JSON object.
    """
    path = expanded(source)
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


def _tree(path: Path) -> Tree | None:
    if path.is_dir():
        return read_folder(path)
    if path.is_file() and path.suffix.lower() not in _NO_TREES and zipfile.is_zipfile(path):
        return read_archive(path)
    return None
