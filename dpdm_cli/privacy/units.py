"""What a claim protects, and so what is drawn, clipped and counted: an image, or a person; and the words for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

UNITS = ("one image", "one person")
"""What a record is: an image, or a person with all of their images."""


@dataclass(frozen=True)
class Words:
    """How statements speak of a record.

    Attributes:
        whole: what is added or removed.
        of: after "sampling".
        each: after "one gradient".
        copy: after "noisy copies".
        vector: after "one vector" of a warm start.
        not_covered: what no claim of this unit covers.
    """

    whole: str
    of: str
    each: str
    copy: str
    vector: str
    not_covered: str


WORDS = {
    "image": Words(
        whole="one image",
        of="",
        each="an image",
        copy="",
        vector="",
        not_covered="people with several images, or images that show several people: the unit is one image",
    ),
    "person": Words(
        whole="one person with all of their images",
        of=" of persons",
        each="a person",
        copy=", each of one of their images at random",
        vector=" (the mean of those of their images)",
        not_covered="people who are seen in images of others, and people who are counted as several: the unit is one "
        "person, as whose each image was said to be",
    ),
}
"""By the word for one record."""


def record_of(unit: str) -> Literal["image", "person"]:
    """The word for one record of one of `UNITS`."""
    return "image" if unit == UNITS[0] else "person"
