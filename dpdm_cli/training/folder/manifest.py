"""The manifest of a run folder or a released model: which files there are, and their SHA-256."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dpdm_cli.errors import DamagedFileError
from dpdm_cli.files import CARD
from dpdm_cli.stored import COPY_AGAIN, Json, shown, understood

MANIFEST = "manifest.json"
REQUIRED = ("model.safetensors", "statement.json")
OPTIONAL = ("samples.png", CARD)

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """What may be published of a run; written last, so that its presence means the run is complete.

    Attributes:
        sha256: of each file, by name.

    Raises:
        DamagedFileError: a name of no such file, a required one that is missing, or no SHA-256.
    """

    sha256: Mapping[str, str]

    def __post_init__(self) -> None:
        for name in sorted({*REQUIRED, *self.sha256}):
            if name not in (*REQUIRED, *OPTIONAL):
                raise DamagedFileError(f"names {shown(name)!a}, no file of a run", COPY_AGAIN)
            if not _SHA256.fullmatch(self.sha256.get(name, "")):
                raise DamagedFileError(f"has no SHA-256 of {name}", COPY_AGAIN)

    def to_json(self) -> Json:
        """Digests by name under one key."""
        return {"sha256": dict(self.sha256)}

    @classmethod
    def from_json(cls, values: object) -> Manifest:
        """What `to_json` described. Raises DamagedFileError: it did not."""
        return understood(cls, values, "the manifest")
