"""What a run takes as known to everybody: published with a named set, stated, or declared; else the run is refused.

Class names, N, image size and colours shape the network and the plan, and so are published with the model. Read off
private images, they would tell of single ones: the only image of a class, or one more than somebody has counted.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dpdm_cli.compute.launched import command_line
from dpdm_cli.data import ImageSet
from dpdm_cli.data.class_names import is_class_name
from dpdm_cli.data.named import NAMED, NamedSet
from dpdm_cli.data.reading import Reading
from dpdm_cli.data.sources import size_of
from dpdm_cli.errors import PrivacyError
from dpdm_cli.privacy.public_inputs import UNLABELLED, PublicInputs, names_for
from dpdm_cli.reporter import Reporter
from dpdm_cli.training.config.settings import TrainSettings
from dpdm_cli.training.records import people_in

_LONGEST_LIST = 500  # characters of class names in a message


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What is said of the images beside the settings, whatever they are.

    Attributes:
        classes: names in label order.
        channels: 1 or 3.
        public_metadata: that what was not said, and is read off the images, is public knowledge.
        reading: how files are read.
    """

    classes: tuple[str, ...] | None = None
    channels: int | None = None
    public_metadata: bool = False
    reading: Reading = field(default_factory=Reading)


def known_size(data: str, settings: TrainSettings, planned: int | None = None) -> int | None:
    """N where it is not to be read off the images: stated, published, or that of a plan file."""
    if settings.dataset_size is not None:
        return settings.dataset_size
    return NAMED[data].train_size if data in NAMED and settings.unit == "image" else planned


def public_facts(
    data: str,
    images: ImageSet,
    settings: TrainSettings,
    stated: Stated,
    planned: int | None = None,
) -> tuple[int, PublicInputs]:
    """N, and who says that it, class names, image size and colours are public.

    None of them changes with a record that is added or removed, unless it is declared. A declared figure is public by
    its user's word alone, and the claim holds between data sets for which it is the same. With a declared N these are
    a record and nothing in its place, which costs the claimed epsilon, or another record, which costs more
    (`restating.replace_one_epsilon`). Whether there is one record more, N itself tells whoever knows all others.

    Args:
        data: name of a set, or a path.
        images: as loaded; of a named set any of its shape will do.
        settings, stated: what was said.
        planned: N of a plan file.

    Raises:
        PrivacyError: a figure is read off the images, and nobody has said that it is public.
        UsageError: N counts persons, and nobody has said whose the images are.
    """
    published = _published(NAMED.get(data), settings.unit)
    size = known_size(data, settings, planned)
    said = {
        # A plan says what N is, not who knows it: it may have been counted.
        "dataset_size": size if "dataset_size" in published else settings.dataset_size,
        "classes": stated.classes,
        "image_size": settings.image_size,
        "channels": stated.channels,
    }
    people = people_in(images, settings.unit)
    count = len(images.images if people is None else people)
    found = {
        "dataset_size": count if size is None else size,
        "classes": images.classes,
        "image_size": images.size[0],
        "channels": images.channels,
    }
    sources = {}
    for name in found:
        if name in published and said[name] in (None, published[name]):
            sources[name] = "published"
        elif said[name] is not None:
            sources[name] = "stated"
        elif name == "classes" and images.labels is None:
            sources[name] = UNLABELLED
        elif stated.public_metadata:
            sources[name] = "declared"
    if missing := {name: value for name, value in found.items() if name not in sources}:
        raise _unstated(data, missing, settings.unit)
    return count if size is None else size, PublicInputs(**sources)


def public_count(
    data: str,
    public_metadata: bool,
    reading: Reading | None = None,
    reporter: Reporter | None = None,
) -> int:
    """N of a source that is not a named set, when it is declared public.

    Args:
        data: a path.
        public_metadata: whether it is declared.
        reading: which files are images of the set.
        reporter: hears of tables.

    Raises:
        PrivacyError: it is not.
        DataError: see `size_of`.
    """
    found = size_of(data, reading, reporter)
    if not public_metadata:
        raise _unstated(data, {"dataset_size": found})
    return found


def check_sources(
    public: PublicInputs,
    *,
    dataset: str,
    dataset_size: int,
    classes: tuple[str, ...],
    shape: tuple[int, int, int],
    unit: str = "image",
) -> None:
    """Whether the sources fit what is published beside them.

    Args:
        public: the sources.
        dataset: the named set, or "custom".
        dataset_size, classes, shape: N, class names, and (C, H, W).
        unit: what N counts, image or person.

    Raises:
        PrivacyError: something is said to be published with a set that has none or another, or declared of a named one.
    """
    named = NAMED.get(dataset)
    published = _published(named, unit)
    channels, side, _ = shape
    found = {
        "dataset_size": dataset_size,
        "classes": classes,
        "image_size": side,
        "channels": channels,
    }
    for name, source in public.to_dict().items():
        fits = {
            "published": name in published and found[name] == published[name],
            "stated": bool(found[name]),
            "declared": name not in published and bool(found[name]),
            UNLABELLED: named is None and not found[name],
        }
        if not fits[source]:
            raise PrivacyError(
                f"{name} is said to be {source}, which does not fit the set {dataset!r}",
                "do not rely on it",
            )


def _published(named: NamedSet | None, unit: str) -> dict[str, Any]:
    if named is None:
        return {}
    # How many images there are is published with a set, not how many persons.
    size = {"dataset_size": named.train_size} if unit == "image" else {}
    return {
        **size,
        "classes": named.classes,
        "image_size": named.image_size,
        "channels": named.channels,
    }


def _unstated(data: str, found: Mapping[str, Any], unit: str = "image") -> PrivacyError:
    """What was found and not stated, and the command that states it."""
    lines = [
        f"{data}: a claim takes these as known to everybody, and nobody has said that they are. Found:"
    ]
    flags = []
    for name, value in found.items():
        shown = text = str(value)
        if name == "classes":
            shown = ", ".join(n if n.isprintable() else ascii(n) for n in value)[:_LONGEST_LIST]
            sayable = len(shown) < _LONGEST_LIST and all(is_class_name(n) for n in value)
            text = ",".join(value) if sayable and "," not in "".join(value) else "A,B,..."
        lines.append(f"    {names_for(unit)[name]}: {shown}")
        flags.append(f"--{name.replace('_', '-')} {shlex.quote(text)}")
    if typed := command_line():
        declare, state = f"{typed} --public-metadata", " ".join([typed, *flags])
    else:
        declare = "public_metadata=True"
        state = ", ".join(f"{name}={value!r}" for name, value in found.items())
    return PrivacyError(
        "\n".join(lines),
        f"If everybody may know them whatever the images are, say so; they are published with the model:\n"
        f"    {declare}\n"
        f"  or, better, state figures that do not come from single images: a round number and every class there could "
        f"be, instead of those that were found:\n"
        f"    {state}",
    )
