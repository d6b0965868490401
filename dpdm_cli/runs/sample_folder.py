"""The folder of a set of synthetic images: whose it is, what it is to hold, whether it is complete.

OUT/<class>/000123.png, or OUT/samples.npz, or OUT/samples.zip
OUT/grid.png        a look at the first images
OUT/metadata.json   the claim and how the images were drawn, the SHA-256 of the images; written last
OUT/.sampling.json  the same before the set is complete

Everything here may be published.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dpdm_cli.errors import DamagedFileError, UsageError
from dpdm_cli.runs.files import is_left_over, write_bytes

KIND = "dpdm samples"

FIXED = (
    "checkpoint_sha256",
    "n",
    "format",
    "seed",
    "batch_size",
    "sampler",
    "drawn",
)
"""What fixes the images; a run goes on only under the same."""

_ANOTHER = "choose another --out, or empty this one"


class SampleFolder:
    """Paths and state of one set.

    Args:
        path: the folder; need not exist.

    Raises:
        UsageError: it is no folder, or holds something that is not a set of ours.
        DamagedFileError: what says how its images are drawn is no JSON object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.grid = path / "grid.png"
        self.metadata = path / "metadata.json"
        self._unfinished = path / ".sampling.json"
        self.recorded: dict[str, Any] | None = None
        self.is_complete = False
        if not path.is_dir():
            if path.exists() or path.is_symlink():
                raise UsageError(f"{path} is not a folder", _ANOTHER)
            return
        if self.metadata.is_file() and _read(self.metadata).get("kind") == KIND:
            self.recorded, self.is_complete = _read(self.metadata), True
        elif self._unfinished.is_file():
            self.recorded = _read(self._unfinished)
        elif any(not is_left_over(file) for file in path.iterdir()):
            raise UsageError(
                f"{path} is not empty, and what it holds isn't of this command", _ANOTHER
            )

    def begin(self, metadata: dict[str, Any]) -> None:
        """Take the folder for a set, or go on with the same one.

        Raises:
            UsageError: the folder belongs to images drawn otherwise.
        """
        if self.recorded is None:
            self.path.mkdir(parents=True, exist_ok=True)
            write_bytes(self._unfinished, _text(metadata))
            return
        for name in FIXED:
            if self.recorded.get(name) != metadata[name]:
                raise UsageError(
                    f"{self.path} holds images of another run: {name} is "
                    f"{_short(self.recorded.get(name))} there, {_short(metadata[name])} now",
                    "choose another --out, or repeat the command that began it",
                )

    def complete(self, metadata: dict[str, Any]) -> None:
        """Write what makes the set complete; the images and the grid must be on the disk."""
        write_bytes(self.metadata, _text(metadata))

    def clean(self) -> None:
        """Remove what a complete set does not need."""
        self._unfinished.unlink(missing_ok=True)
        for file in self.path.iterdir():
            if is_left_over(file):
                file.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path}: cannot be read: {error}", _ANOTHER) from error
    if not isinstance(values, dict):
        raise DamagedFileError(f"{path}: is no JSON object", _ANOTHER)
    return values


def _text(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else text[:99] + "…"
