"""Named sets, folders, zips and arrays become one uint8 tensor with labels, checked on the way.

The tensor is in memory, or mapped from a prepared file. Knows files and pixels; nothing of privacy,
networks or the screen. The names below load on first use, so that the public facts in
`dpdm_cli.data.named` are available without importing torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpdm_cli.data.images import ImageSet, duplicate_count
    from dpdm_cli.data.loading import load_images
    from dpdm_cli.data.named import NAMED, NamedSet

__all__ = ["NAMED", "ImageSet", "NamedSet", "duplicate_count", "load_images"]

_HOMES = {
    "NAMED": "named",
    "NamedSet": "named",
    "ImageSet": "images",
    "duplicate_count": "images",
    "load_images": "loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
