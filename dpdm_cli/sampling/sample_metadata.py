"""What a set of synthetic images says about itself: closed keys, each with a value that is checked or made again.

`metadata.json` is the manifest of its folder: it holds the digest of the images, that of every other file, and one of
all that it says itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dpdm_cli.checkpoint import check_dataset
from dpdm_cli.data.class_names import check_classes
from dpdm_cli.data.sources import SAMPLES
from dpdm_cli.diffusion.generation import SamplerSettings
from dpdm_cli.errors import DamagedFileError
from dpdm_cli.files import CARD
from dpdm_cli.privacy.statement import AnyStatement, read_statement
from dpdm_cli.sampling.album import Album
from dpdm_cli.sampling.png import DIGITAL_SOURCE_TYPE
from dpdm_cli.sampling.proportions import check_shares, cycle_of
from dpdm_cli.sampling.sampler_presets import is_origin
from dpdm_cli.sampling.shards import Shard
from dpdm_cli.sampling.writing import FORMATS, Format
from dpdm_cli.stored import (
    LARGEST_SIDE,
    Json,
    check_keys,
    json_digest,
    optional,
    same_json,
    shown,
    value_of,
)

T = TypeVar("T")

KIND = SAMPLES
GRID = "grid.png"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_WRITTEN_BY = re.compile(r"dpdm [0-9]{1,4}(\.[0-9]{1,4}){1,2}((a|b|rc|\.dev)[0-9]{1,4})?")
_SEAL = "description_sha256"
_MOST = 10**9  # images; more are taken for damage
_WHAT = "the description of samples"


@dataclass(frozen=True, kw_only=True)
class Digests:
    """SHA-256 of the files in a folder of samples.

    Attributes:
        images: see `ImageSink.digest`.
        files: by name, of the picture and the card, where there are any.
    """

    images: str
    files: Mapping[str, str]

    def to_json(self) -> Json:
        """Their part of `metadata.json`."""
        return {"images_sha256": self.images, "files_sha256": dict(self.files)}

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> Digests:
        """What `to_json` described, whatever else is there. Raises DamagedFileError: there are none."""
        return cls(
            images=value_of(values, "images_sha256", _WHAT, _sha256),
            files=value_of(values, "files_sha256", _WHAT, _of_files),
        )


@dataclass(frozen=True, kw_only=True)
class SampleMetadata:
    """Of a set of synthetic images, or a shard of one.

    Attributes:
        statement: of the model that drew them.
        dataset, classes, image_shape: see `Model`.
        n: images of the whole set.
        format: of the files.
        marked: whether its PNG files carry `XMP_MARK`.
        cycle: see `Album`; it follows from the proportions where there are any.
        proportions: the share of each class that is drawn, as whoever drew the set chose; None where they take turns.
        seed, batch_size, sampler, sampler_from: how they were drawn; from where the sampler's settings are.
        checkpoint_sha256: of the model's file.
        written_by: "dpdm" and the release of it that drew them.
        shard: which part of the set they are; None for the whole.
        digests: of what lies there; None before it is complete.
    """

    statement: AnyStatement
    dataset: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    n: int
    format: Format
    cycle: tuple[int, ...]
    seed: int
    batch_size: int
    sampler: SamplerSettings
    sampler_from: str
    checkpoint_sha256: str
    written_by: str
    marked: bool = True
    proportions: Mapping[str, float] | None = None
    shard: Shard | None = None
    digests: Digests | None = None

    @property
    def album(self) -> Album:
        """Which images there are to be, and what they are called."""
        return Album(
            n=self.n,
            shape=self.image_shape,
            classes=self.classes,
            cycle=self.cycle,
            marked=self.marked,
            part=None if self.shard is None else self.shard.indices(self.n, self.batch_size),
        )

    @property
    def count(self) -> int:
        """How many images there are to be, without naming them: a file may say any number."""
        return self.n if self.shard is None else self.shard.count(self.n, self.batch_size)

    @property
    def sealed(self) -> Digests:
        """The digests of a complete set. Raises DamagedFileError: there are none."""
        if self.digests is None:
            raise DamagedFileError(f"{_WHAT} lacks images_sha256, files_sha256 and {_SEAL}")
        return self.digests

    @property
    def drawn(self) -> list[str]:
        """Names of the classes in turn, or of those that have a share."""
        if self.proportions is not None:
            return list(self.proportions)
        return [self.classes[label] for label in self.cycle]

    def to_json(self) -> Json:
        """What is said of the images; once they are there with the digests and one over all of it."""
        values: Json = {
            "kind": KIND,
            "private": self.statement.private,
            "headline": self.statement.headline,
            "statement": self.statement.to_json(),
            "dataset": self.dataset,
            "classes": list(self.classes),
            "n": self.count,
            "format": self.format,
            "digital_source_type": DIGITAL_SOURCE_TYPE,
            "marked": self.marked,
            "image_shape": list(self.image_shape),
            "drawn": self.drawn,
            "proportions": None if self.proportions is None else dict(self.proportions),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "sampler": self.sampler.to_dict(),
            "sampler_from": self.sampler_from,
            "checkpoint_sha256": self.checkpoint_sha256,
            "written_by": self.written_by,
        }
        if self.shard is not None:
            values["shard"] = self.shard.described(self.n)
        if self.digests is not None:
            values |= self.digests.to_json()
            values[_SEAL] = _seal_of(values)
        return values

    @classmethod
    def from_json(cls, values: Json) -> SampleMetadata:
        """What `to_json` described. Whether its claim holds is the business of `Statement.check`.

        Raises:
            PrivacyError: see `read_statement`.
            DamagedFileError: a key is missing or foreign, or its value is none that stands there; it names the key.
        """

        def read(name: str, understand: Any) -> Any:
            return value_of(values, name, _WHAT, understand)

        # First: what was changed by accident is damage, whatever it claims by now.
        is_sealed = not values.keys().isdisjoint({"images_sha256", "files_sha256", _SEAL})
        if is_sealed and read(_SEAL, _sha256) != _seal_of(values):
            raise DamagedFileError(f"{_WHAT}: its {_SEAL} is not that of what else it says")
        if "marked" not in values and values.get("kind") == KIND:
            raise DamagedFileError(
                f"{_WHAT} is of an earlier release of dpdm: it does not say whether they are marked"
            )
        shard = read("shard", Shard.recorded)
        counted = "n" if shard is None else "shard"
        n = read(counted, lambda value: _integer(value["whole_n"] if shard else value, 1, _MOST))
        classes = read("classes", check_classes)
        proportions = read("proportions", optional(lambda shares: _shares(shares, classes)))
        if proportions is None:
            cycle = read("drawn", lambda names: _cycle(names, classes, n))
        else:
            cycle = cycle_of(proportions, classes)
        metadata = cls(
            statement=read_statement(values.get("statement")),
            dataset=read("dataset", check_dataset),
            classes=classes,
            image_shape=read("image_shape", _shape),
            n=n,
            format=read("format", lambda name: _format(name, shard)),
            marked=read("marked", lambda marked: _if(marked is True or marked is False, marked)),
            cycle=cycle,
            proportions=proportions,
            seed=read("seed", lambda seed: _integer(seed, 0, (1 << 63) - 1)),
            batch_size=read("batch_size", lambda size: _integer(size, 1, _MOST)),
            sampler=read("sampler", SamplerSettings.from_dict),
            sampler_from=read("sampler_from", lambda text: _if(is_origin(text), text)),
            checkpoint_sha256=read("checkpoint_sha256", _sha256),
            written_by=read("written_by", lambda text: _matching(_WRITTEN_BY, text)),
            shard=shard,
            digests=Digests.from_json(values) if is_sealed else None,
        )
        true = metadata.to_json()
        check_keys(values, true, _WHAT)
        for name, value in true.items():
            if not same_json(values[name], value):
                raise DamagedFileError(
                    f"{_WHAT}: {name} is {shown(values[name])!a}, but what else it says gives {shown(value)!a}"
                )
        return metadata


def _seal_of(values: Json) -> str:
    return json_digest({name: value for name, value in values.items() if name != _SEAL})


def _if(is_so: bool, value: T) -> T:
    if not is_so:
        raise ValueError
    return value


def _integer(value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError
    return value


def _matching(pattern: re.Pattern[str], text: object) -> str:
    return str(_if(isinstance(text, str) and pattern.fullmatch(text) is not None, text))


def _sha256(text: object) -> str:
    return _matching(_SHA256, text)


def _format(name: Format, shard: Shard | None) -> Format:
    _if(shard is None or name == "png", name)  # shards are merged, which only files can be
    return FORMATS[FORMATS.index(name)]


def _shape(values: list[Any]) -> tuple[int, int, int]:
    channels, height, width = values
    _if(_integer(channels, 1, 3) != 2, channels)
    return channels, _integer(height, 1, LARGEST_SIDE), _integer(width, 1, LARGEST_SIDE)


def _cycle(names: list[Any], classes: tuple[str, ...], n: int) -> tuple[int, ...]:
    _if(bool(names) == bool(classes), names)
    # The rest of a cycle that is longer than the set would say nothing of its images.
    _if(len(names) <= max(n, len(classes)), names)
    return tuple(classes.index(name) for name in names)


def _shares(values: dict[str, Any], classes: tuple[str, ...]) -> dict[str, float]:
    _if(values.keys() <= {*classes}, values)
    shares = check_shares([_if(type(share) is float, share) for share in values.values()])
    return dict(zip(values, shares, strict=True))


def _of_files(values: Mapping[str, object]) -> dict[str, str]:
    _if({*values} <= {GRID, CARD}, values)
    return {name: _sha256(digest) for name, digest in values.items()}
