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

PREVIEWS = "previews"
_PREVIEW = re.compile(rf"{PREVIEWS}/step-\d{{7,10}}\.png")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_preview(name: str) -> bool:
    """Whether this is a name that `preview_name` gives."""
    return _PREVIEW.fullmatch(name) is not None


def preview_name(step: int) -> str:
    """Of the grid drawn after a step."""
    return f"{PREVIEWS}/step-{step:07d}.png"


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
            if name not in (*REQUIRED, *OPTIONAL) and not is_preview(name):
                raise DamagedFileError(f"names {shown(name)!a}, no file of a run", COPY_AGAIN)
            if not _SHA256.fullmatch(self.sha256.get(name, "")):
                raise DamagedFileError(f"has no SHA-256 of {name}", COPY_AGAIN)

    def to_json(self) -> Json:
        """Digests by name under one key."""
        return {"sha256": dict(self.sha256)}

    @property
    def previews(self) -> list[str]:
        """Names of the grids that were drawn on the way, in the order of their steps."""
        return sorted(filter(is_preview, self.sha256), key=lambda n: (len(n), n))

    @classmethod
    def from_json(cls, values: object) -> Manifest:
        """What `to_json` described. Raises DamagedFileError: it did not."""
        return understood(cls, values, "the manifest")
