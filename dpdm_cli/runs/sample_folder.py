"""The folder of a set of synthetic images: whose it is, what it is to hold, whether it is complete.

OUT/<class>/000123.png, or OUT/samples.npz, or OUT/samples.zip
OUT/grid.png        a look at the first images
OUT/metadata.json   the claim and how the images were drawn, the SHA-256 of the images; written last
OUT/.sampling.json  the same before the set is complete
OUT/.shard-3-of-16.json  a copy of metadata.json in a shard's folder, which stays when shards are merged by copying

A shard is a part of a set, in a folder of its own. Where shards were copied into one folder, metadata.json is that of
one of them and no longer fits what is there: the whole set is complete only when it has been gone on with as a whole.

Everything here may be published.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dpdm_cli.errors import DamagedFileError, DpdmError, ResourceError, UsageError
from dpdm_cli.runs.files import is_left_over, write_bytes
from dpdm_cli.runs.shards import Shard

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
        """Take the folder for a set, or go on with the same one; with the whole of it where there are shards.

        Raises:
            UsageError: the folder belongs to images drawn otherwise.
            DamagedFileError: what a shard says of itself can't be read.
        """
        if self.recorded is None:
            self.path.mkdir(parents=True, exist_ok=True)
            write_bytes(self._unfinished, _text(metadata))
            return
        self._check_same(self.recorded, metadata)
        wanted, found = metadata.get("shard"), self.recorded.get("shard")
        if wanted is not None and found != wanted:
            raise UsageError(
                f"{self.path} holds {_called(found)}, not {_called(wanted)}",
                "each shard has a folder of its own: choose another --out",
            )
        if wanted is None:
            for record in self.shards():
                self._check_same(record, metadata)
            if found is not None:
                write_bytes(self._unfinished, _text(metadata))
                self.metadata.unlink(missing_ok=True)
                self.is_complete = False

    def shards(self) -> list[dict[str, Any]]:
        """What the complete shards whose files lie here say of themselves."""
        return [_read(path) for path in self._shard_records()]

    def shard_record(self, shard: Shard) -> Path:
        """Where a complete shard says so once more."""
        return self.path / f".shard{shard.folder}.json"

    def complete(self, metadata: dict[str, Any]) -> None:
        """Write what makes the set complete; the images and the grid must be on the disk."""
        if (shard := Shard.recorded(metadata)) is not None:
            write_bytes(self.shard_record(shard), _text(metadata))
        write_bytes(self.metadata, _text(metadata))

    def clean(self, *, whole: bool) -> None:
        """Remove what a complete set does not need."""
        self._unfinished.unlink(missing_ok=True)
        for file in self._shard_records() if whole else ():
            file.unlink(missing_ok=True)
        for file in self.path.iterdir():
            if is_left_over(file):
                file.unlink(missing_ok=True)

    def _shard_records(self) -> list[Path]:
        return sorted(self.path.glob(".shard-*-of-*.json"))

    def _check_same(self, recorded: dict[str, Any], metadata: dict[str, Any]) -> None:
        for name in FIXED:
            there, now = _fixed(recorded, name), _fixed(metadata, name)
            if there != now:
                raise UsageError(
                    f"{self.path} holds images of another run: {name} is {_short(there)} there, {_short(now)} now",
                    "choose another --out, or repeat the command that began it",
                )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """What the system says about writing to the folder becomes an error of ours."""
    try:
        yield
    except DpdmError:
        raise
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot write: {error.strerror or error}",
            "free space or choose another --out; the images that are there stay, and the same command goes on",
        ) from error


def _fixed(facts: dict[str, Any], name: str) -> Any:
    """What may not change; the n of a shard is that of its set."""
    shard = facts.get("shard")
    if name == "n" and isinstance(shard, dict):
        return shard.get("whole_n")
    return facts.get(name)


def _called(shard: Any) -> str:
    if not isinstance(shard, dict):
        return "a whole set"
    return f"shard {shard.get('number')}/{shard.get('of')}"


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
