"""What a set of synthetic images says of itself: closed keys, each with a value that is checked or made anew.

`metadata.json` is the manifest of its folder: it holds the digest of the images, that of every other file, and one of
all that it says itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dpdm_cli.cards import CARD
from dpdm_cli.checkpoint import check_dataset
from dpdm_cli.data.class_names import check_classes
from dpdm_cli.diffusion.generation import SamplerSettings
from dpdm_cli.diffusion.unet import LARGEST_SIDE
from dpdm_cli.errors import DamagedFileError, UsageError
from dpdm_cli.privacy.plan import check_keys
from dpdm_cli.privacy.statement import headline
from dpdm_cli.sampling.sample_folder import KIND
from dpdm_cli.sampling.sampler_presets import is_origin
from dpdm_cli.sampling.shards import Shard
from dpdm_cli.sampling.writing import FORMATS, Album, Format

GRID = "grid.png"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_WRITTEN_BY = re.compile(r"dpdm [0-9]{1,4}(\.[0-9]{1,4}){1,2}((a|b|rc|\.dev)[0-9]{1,4})?")
_SEAL = "description_sha256"
_MOST = 10**9  # images; more are taken for damage


@dataclass(frozen=True, kw_only=True)
class SampleFacts:
    """A set of synthetic images, or a shard of one.

    Attributes:
        statement: of the model that drew them.
        dataset, classes, image_shape: see `Model`.
        n: images of the whole set.
        format: of the files.
        cycle: see `Album`.
        seed, batch_size, sampler, sampler_from: how they were drawn; from where the sampler's settings are.
        checkpoint_sha256: of the model's file.
        written_by: "dpdm" and the release of it that drew them.
        shard: which part of the set they are; None for the whole.
    """

    statement: dict[str, Any]
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
    shard: Shard | None = None

    @property
    def album(self) -> Album:
        """Which images there are to be, and what they are called."""
        return Album(
            n=self.n,
            shape=self.image_shape,
            classes=self.classes,
            cycle=self.cycle,
            part=None if self.shard is None else self.shard.indices(self.n, self.batch_size),
        )

    @property
    def count(self) -> int:
        """How many images there are to be, without naming them: a file may say any number."""
        return self.n if self.shard is None else self.shard.count(self.n, self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object: all that is said of them before they are drawn."""
        facts = {
            "kind": KIND,
            "private": bool(self.statement.get("private")),
            "headline": headline(self.statement),
            "statement": self.statement,
            "dataset": self.dataset,
            "classes": list(self.classes),
            "n": self.count,
            "format": self.format,
            "image_shape": list(self.image_shape),
            "drawn": [self.classes[label] for label in self.cycle],
            "seed": self.seed,
            "batch_size": self.batch_size,
            "sampler": self.sampler.to_dict(),
            "sampler_from": self.sampler_from,
            "checkpoint_sha256": self.checkpoint_sha256,
            "written_by": self.written_by,
        }
        if self.shard is not None:
            facts["shard"] = self.shard.described(self.n)
        return facts

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SampleFacts:
        """What `to_dict` described. The statement is taken as it is: see `check_statement`.

        Raises:
            DamagedFileError: a key is missing or foreign, or its value is none that stands there; it names the key.
        """
        given = _Given(values)
        shard = given.read("shard", lambda _: Shard.recorded(values))
        whole = values if shard is None else values["shard"]
        n = given.read("n" if shard is None else "shard", lambda _: _whole(whole, shard))
        classes = given.read("classes", check_classes)
        facts = cls(
            statement=given.read("statement", lambda statement: {**statement}),
            dataset=given.read("dataset", check_dataset),
            classes=classes,
            image_shape=given.read("image_shape", _shape),
            n=n,
            format=given.read("format", lambda name: _format(name, shard)),
            cycle=given.read("drawn", lambda names: _cycle(names, classes, n)),
            seed=given.read("seed", lambda seed: _integer(seed, 0, (1 << 63) - 1)),
            batch_size=given.read("batch_size", lambda size: _integer(size, 1, _MOST)),
            sampler=given.read("sampler", SamplerSettings.from_dict),
            sampler_from=given.read("sampler_from", lambda text: _if(is_origin(text), text)),
            checkpoint_sha256=given.read(
                "checkpoint_sha256", lambda text: _matching(_SHA256, text)
            ),
            written_by=given.read("written_by", lambda text: _matching(_WRITTEN_BY, text)),
            shard=shard,
        )
        try:
            true = facts.to_dict()
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise DamagedFileError(f"its statement has no headline: {error!r}") from error
        check_keys(dict(values), set(true), "its description")
        for name, value in true.items():
            if json.dumps(values[name], sort_keys=True) != json.dumps(value, sort_keys=True):
                raise _damaged(name, values[name])
        return facts


@dataclass(frozen=True, kw_only=True)
class Digests:
    """SHA-256 of what lies in a folder of samples.

    Attributes:
        images: see `ImageSink.digest`.
        files: by name, of the picture and the card, where there are any.
    """

    images: str
    files: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Their part of `metadata.json`."""
        return {"images_sha256": self.images, "files_sha256": dict(self.files)}

    def sealed(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """All of `metadata.json`: what is said of the images, these digests, and one over both."""
        values = {**described, **self.to_dict()}
        return {**values, _SEAL: _sha256_of(values)}

    @classmethod
    def taken_from(cls, values: dict[str, Any]) -> tuple[Digests, dict[str, Any]]:
        """The digests in a `metadata.json`, and what else is in it.

        Raises:
            DamagedFileError: there are none, or what stands there is no digest.
        """
        given, rest = _Given(values), dict(values)
        digests = cls(
            images=given.read("images_sha256", lambda text: _matching(_SHA256, text)),
            files=given.read("files_sha256", _of_files),
        )
        given.read(_SEAL, lambda text: _matching(_SHA256, text))
        for name in (*digests.to_dict(), _SEAL):
            del rest[name]
        return digests, rest


def check_seal(values: Mapping[str, Any]) -> None:
    """Whether a `metadata.json` is the one that was written. Raises DamagedFileError."""
    if _sha256_of(values) != values.get(_SEAL):
        raise DamagedFileError(f"its {_SEAL} is not that of what else it says")


def _sha256_of(values: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in values.items() if name != _SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


class _Given:
    """Values that come from a file, read one by one."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def read(self, name: str, understood: Callable[[Any], Any]) -> Any:
        """The value under a key. Raises DamagedFileError, with the key, where it is not understood."""
        try:
            return understood(self._values.get(name))
        except (LookupError, AttributeError, TypeError, ValueError, UsageError) as error:
            raise _damaged(name, self._values.get(name)) from error


def _damaged(name: str, value: object) -> DamagedFileError:
    text = str(value)
    shown = text if len(text) <= 80 else text[:79] + "…"
    return DamagedFileError(f"its {name} is {shown!a}, which is not what stands there")


def _if(is_so: bool, value: Any) -> Any:
    if not is_so:
        raise ValueError
    return value


def _integer(value: object, low: int, high: int) -> int:
    return int(_if(type(value) is int and low <= value <= high, value))


def _matching(pattern: re.Pattern[str], text: object) -> str:
    return str(_if(isinstance(text, str) and pattern.fullmatch(text) is not None, text))


def _whole(values: Mapping[str, Any], shard: Shard | None) -> int:
    return _integer(values["n" if shard is None else "whole_n"], 1, _MOST)


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


def _of_files(values: Mapping[str, Any]) -> dict[str, str]:
    _if({*values} <= {GRID, CARD}, values)
    return {name: _matching(_SHA256, digest) for name, digest in values.items()}
