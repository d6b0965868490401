"""The folder of a set of synthetic images: whose it is, what it is to hold, whether it is complete.

OUT/train/<class>/000123.png, or OUT/samples.npz, OUT/samples.zip or OUT/samples.parquet
OUT/grid.png        a look at the first images
OUT/metadata.json   the claim and how the images were drawn, the SHA-256 of all other files; written last
OUT/.sampling.json  the same before a whole set is complete
OUT/.sampling-3-of-16.json  the same before a shard is complete
OUT/.shard-3-of-16.json     a copy of metadata.json in the folder of a complete shard
OUT/.sampling.lock.part     held by the process that draws into the folder

A shard is a part of a set, in a folder of its own. Its hidden files bear its number, so that all of them stay when
shards are merged by copying: they alone say whose the images are that lie there then. metadata.json is that of one
shard and no longer fits: the whole set is complete only when it has been gone on with as a whole.

Everything here may be published.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dpdm_cli.diffusion.generation import SamplerSettings
from dpdm_cli.errors import DamagedFileError, PrivacyError, UsageError
from dpdm_cli.files import CARD, is_left_over, lock_file, read_json, write_bytes
from dpdm_cli.sampling.sample_metadata import GRID, KIND, SampleMetadata
from dpdm_cli.sampling.shards import Shard
from dpdm_cli.stored import json_text

FIXED = (
    *("checkpoint_sha256", "n", "format", "marked", "seed", "batch_size", "sampler"),
    *("drawn", "proportions"),
)
"""What determines the images and their files; a run continues only under the same. The n is that of the whole set.

A larger n extends a set, where what was drawn in turn fits: image i depends on neither.
"""

GOES_ON = "free space or choose another --out; the images that are there stay, and the same command continues"
_ANOTHER = "choose another --out, or empty this one"


def is_sample_folder(path: Path) -> bool:
    """Whether a set of ours lies or begins here; links to folders are none."""
    if path.is_symlink() or not path.is_dir():
        return False
    records = [path / "metadata.json", *path.glob(".sampling*.json")]
    try:
        return any(file.is_file() and _says_so(file) for file in records)
    except DamagedFileError:
        return False


class SampleFolder:
    """Paths and state of one set.

    Args:
        path: the folder; need not exist.

    Raises:
        UsageError: it is no folder, or holds something that is not a set of ours.
        DamagedFileError: what says how its images are drawn is not what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.grid = path / GRID
        self.metadata = path / "metadata.json"
        self._unfinished = path / _hidden("sampling")
        self._lock = path / ".sampling.lock.part"
        self._look()

    def _look(self) -> None:
        path = self.path
        self.recorded: SampleMetadata | None = None
        self.is_complete = False
        self.smaller: SampleMetadata | None = None
        if not path.is_dir():
            if path.exists() or path.is_symlink():
                raise UsageError(f"{path} is not a folder", _ANOTHER)
            return
        if self.metadata.is_file() and _says_so(self.metadata):
            self.recorded, self.is_complete = _read(self.metadata), True
        elif begun := [file for file in self._begun() if file.is_file()]:
            self.recorded = _read(begun[0])
        elif any(not is_left_over(file) for file in path.iterdir()):
            raise UsageError(
                f"{path} is not empty, and what it holds isn't of this command", _ANOTHER
            )

    @property
    def is_whole(self) -> bool:
        """Whether what is recorded is a whole set; where shards were merged, whether it was taken over as one."""
        return self.recorded is not None and self.recorded.shard is None

    @contextmanager
    def begun(self, metadata: SampleMetadata) -> Iterator[None]:
        """Hold the folder for this process, and begin a set or a shard there or go on with the same one.

        Merged shards are left to `take_over`.

        Raises:
            UsageError: another process draws into it.
            UsageError, DamagedFileError: see `check`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with lock_file(self._lock, f"{self.path}: another process draws into this folder"):
            self._look()  # once more: until now another may have been at it
            self.check(metadata)
            if self.recorded is None:
                write_bytes(self._begun_as(metadata.shard), json_text(metadata.to_json()))
            yield

    def check(self, metadata: SampleMetadata) -> None:
        """Whether a set or a shard can begin or be gone on with here; from then on `is_complete` speaks of that one.

        Where a smaller set is complete that this one begins with, `smaller` is that one.

        Raises:
            UsageError: the folder belongs, or one of the shards in it, to images drawn otherwise; it was released.
            DamagedFileError: what a shard says of itself can't be read.
        """
        wanted = metadata.shard
        if self.recorded is None:
            return
        records = [self.recorded]
        if self._unfinished.is_file():
            records.append(_read(self._unfinished))
        for shards in (self.complete_shards(), self.unfinished_shards()):
            records += shards.values()
        if _extends(metadata, self.recorded):
            records = [record for record in records if record != self.recorded]
            self._check_not_released(metadata)
            self.smaller, self.is_complete = self.recorded, False
        for record in records:
            self._check_same(record, metadata)
        found = self.recorded.shard
        if wanted is not None and found != wanted:
            raise UsageError(
                f"{self.path} holds {_called(found)}, not {_called(wanted)}",
                "each shard has a folder of its own: choose another --out",
            )
        if found != wanted:
            self.is_complete = False

    def extend(self, metadata: SampleMetadata) -> None:
        """Make `smaller` a part of an unfinished larger set; its images vouch for themselves from then on."""
        write_bytes(self._unfinished, json_text(metadata.to_json()))
        self.metadata.unlink(missing_ok=True)

    def take_over(self, metadata: SampleMetadata, refuted: Iterable[Shard]) -> None:
        """Make merged shards a whole set that is unfinished; from then on it vouches for all images that lie there.

        Args:
            metadata: that of the whole set.
            refuted: shards that say they are complete, and are not.
        """
        if not self.is_whole:
            write_bytes(self._unfinished, json_text(metadata.to_json()))
            self.metadata.unlink(missing_ok=True)
        for shard in refuted:
            self.shard_record(shard).unlink(missing_ok=True)

    def complete_shards(self) -> dict[Shard, SampleMetadata]:
        """What complete shards that lie here say of themselves. Raises DamagedFileError: it can't be read."""
        return self._shards("shard")

    def unfinished_shards(self) -> dict[Shard, SampleMetadata]:
        """What unfinished shards that lie here say of themselves. Raises DamagedFileError: it can't be read."""
        return self._shards("sampling")

    def shard_record(self, shard: Shard) -> Path:
        """Where a complete shard says so once more."""
        return self.path / _hidden("shard", shard)

    def complete(self, metadata: SampleMetadata) -> None:
        """Write what makes the set complete; the images and the grid must be on the disk."""
        text = json_text(metadata.to_json())
        if metadata.shard is not None:
            write_bytes(self.shard_record(metadata.shard), text)
        write_bytes(self.metadata, text)

    def clean(self, shard: Shard | None) -> None:
        """Remove what the complete set, or shard, does not need; a whole set needs nothing of its shards."""
        needless = {self._unfinished, self._begun_as(shard)}
        if shard is None:
            needless.update(self._begun(), self._records("shard"))
        needless.update(file for file in self.path.iterdir() if is_left_over(file))
        for file in needless:
            file.unlink(missing_ok=True)

    def _begun_as(self, shard: Shard | None) -> Path:
        return self.path / _hidden("sampling", shard)

    def _begun(self) -> list[Path]:
        """Where unfinished sets may say what they are; a whole one comes before its shards."""
        return [self._unfinished, *self._records("sampling")]

    def _records(self, kind: str) -> list[Path]:
        return sorted(self.path.glob(f".{kind}-*-of-*.json"))

    def _shards(self, kind: str) -> dict[Shard, SampleMetadata]:
        found = {}
        for path in self._records(kind):
            record = _read(path)
            if record.shard is None or path.name != _hidden(kind, record.shard):
                raise DamagedFileError(
                    f"{path}: does not say of which shard it is, or is not the file of that one",
                    "copy the files of that shard again, the hidden one with them",
                )
            found[record.shard] = record
        return found

    def _check_not_released(self, metadata: SampleMetadata) -> None:
        """A card says how many images there are, and is not made here."""
        if self.recorded and self.recorded.digests and CARD in self.recorded.digests.files:
            raise UsageError(
                f"{self.path} was released with {self.recorded.n:,} images; {metadata.n:,} are asked for now",
                "draw more into the set it was made from, and release that one again",
            )

    def _check_same(self, recorded: SampleMetadata, metadata: SampleMetadata) -> None:
        for name in FIXED:
            there, now = getattr(recorded, name), getattr(metadata, name)
            if there != now:
                raise UsageError(
                    f"{self.path} holds images of another run: {name} is {_short(there)} there, {_short(now)} now",
                    "choose another --out, or repeat the command that began it",
                )


def _hidden(kind: str, shard: Shard | None = None) -> str:
    return f".{kind}{shard.folder if shard else ''}.json"


def _called(shard: Shard | None) -> str:
    return "a whole set" if shard is None else f"shard {shard}"


def _says_so(file: Path) -> bool:
    """Whether a file that is named as ours is one; others may stand beside their object what they like."""
    return read_json(file, hint=_ANOTHER, bare=False).get("kind") == KIND


def _read(path: Path) -> SampleMetadata:
    try:
        return SampleMetadata.from_json(read_json(path, hint=_ANOTHER))
    except (DamagedFileError, PrivacyError) as error:
        raise type(error)(f"{path}: is not what was written: {error.message}", _ANOTHER) from error


def _extends(metadata: SampleMetadata, there: SampleMetadata) -> bool:
    """Whether one whole set begins with the images of another and has more."""
    if metadata.shard or there.shard or there.n >= metadata.n:
        return False
    fixed = (name for name in FIXED if name not in ("n", "drawn"))
    if any(getattr(there, name) != getattr(metadata, name) for name in fixed):
        return False
    if not there.cycle or not metadata.cycle:
        return there.cycle == metadata.cycle
    # From there on both repeat.
    compared = min(there.n, len(there.cycle) * len(metadata.cycle))
    return all(there.album.label(i) == metadata.album.label(i) for i in range(compared))


def _short(value: object) -> str:
    text = json.dumps(value.to_dict() if isinstance(value, SamplerSettings) else value)
    return text if len(text) <= 100 else text[:99] + "…"
