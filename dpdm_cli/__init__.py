"""dpdm: differentially private diffusion models, from a folder of images to publishable synthetic ones.

The public names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpdm_cli.privacy.accounting import calibrate
    from dpdm_cli.privacy.plan import PrivacyPlan
    from dpdm_cli.runs.classification import classify
    from dpdm_cli.runs.sampling import sample
    from dpdm_cli.runs.scoring import fid
    from dpdm_cli.runs.training import train

__version__ = "0.1.0"

__all__ = ["PrivacyPlan", "__version__", "calibrate", "classify", "fid", "sample", "train"]

_HOME = {
    "PrivacyPlan": "dpdm_cli.privacy.plan",
    "calibrate": "dpdm_cli.privacy.accounting",
    "train": "dpdm_cli.runs.training",
    "sample": "dpdm_cli.runs.sampling",
    "fid": "dpdm_cli.runs.scoring",
    "classify": "dpdm_cli.runs.classification",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dpdm_cli' has no attribute {name!r}")
