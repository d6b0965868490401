"""A set of images drawn in independent parts: which batches belong to which part.

Batch b of the whole set, images b*B to b*B + B - 1, belongs to shard 1 + b modulo the number of shards. So an image is
the same, and has the same name, whichever process draws it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dpdm_cli.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """One of several parts of a set.

    Attributes:
        number: which one, from 1.
        of: how many there are.

    Raises:
        UsageError: no such part exists.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise _no_shard(str(self))

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `3/16`. Raises UsageError."""
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)
        if match is None:
            raise _no_shard(text)
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def recorded(cls, told: Any) -> Shard | None:
        """What `described` gave; None for the None of a whole set.

        Raises:
            AttributeError, TypeError, ValueError, UsageError: the description is damaged.
        """
        if told is None:
            return None
        if told.keys() != {"number", "of", "whole_n"}:
            raise ValueError(f"expected number, of and whole_n, found {sorted(told)}")
        if any(type(value) is not int for value in told.values()):
            raise ValueError(f"expected whole numbers, found {told}")
        return cls(told["number"], told["of"])

    def described(self, whole_n: int) -> dict[str, int]:
        """For the metadata of a shard of `whole_n` images."""
        return {"number": self.number, "of": self.of, "whole_n": whole_n}

    @property
    def folder(self) -> str:
        """What is appended to the name of a whole set's folder."""
        return f"-{self.number}-of-{self.of}"

    def starts(self, n: int, size: int) -> range:
        """First index of each of this shard's batches of `size`, of n images."""
        return range((self.number - 1) * size, n, self.of * size)

    def indices(self, n: int, size: int) -> list[int]:
        """The images that belong here, in order."""
        return [i for start in self.starts(n, size) for i in range(start, min(start + size, n))]

    def count(self, n: int, size: int) -> int:
        """How many images belong here, without naming them."""
        starts = self.starts(n, size)
        return len(starts) * size - max(0, starts[-1] + size - n) if starts else 0

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def _no_shard(text: str) -> UsageError:
    return UsageError(
        f"there is no shard {text!r}", "give its number, from 1, and how many there are: 3/16"
    )
