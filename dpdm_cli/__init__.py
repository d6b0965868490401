"""dpdm: differentially private diffusion models, from a folder of images to publishable synthetic ones.

The public names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpdm_cli.auditing.run import audit
    from dpdm_cli.data.prepare.preparing import prepare
    from dpdm_cli.evaluation.classification import classify
    from dpdm_cli.evaluation.scoring import fid
    from dpdm_cli.privacy.plan import PrivacyPlan
    from dpdm_cli.publishing.releasing import release
    from dpdm_cli.publishing.verifying import verify
    from dpdm_cli.reporting.comparing import compare
    from dpdm_cli.reporting.run import report
    from dpdm_cli.sampling.run import sample
    from dpdm_cli.training.calibration import calibrate
    from dpdm_cli.training.dry_run import dry_run
    from dpdm_cli.training.run import train

__version__ = "0.1.0"

__all__ = [
    "PrivacyPlan",
    "__version__",
    "audit",
    "calibrate",
    "classify",
    "compare",
    "dry_run",
    "fid",
    "prepare",
    "release",
    "report",
    "sample",
    "train",
    "verify",
]

_HOME = {
    "PrivacyPlan": "dpdm_cli.privacy.plan",
    "calibrate": "dpdm_cli.training.calibration",
    "prepare": "dpdm_cli.data.prepare.preparing",
    "train": "dpdm_cli.training.run",
    "dry_run": "dpdm_cli.training.dry_run",
    "sample": "dpdm_cli.sampling.run",
    "release": "dpdm_cli.publishing.releasing",
    "fid": "dpdm_cli.evaluation.scoring",
    "audit": "dpdm_cli.auditing.run",
    "classify": "dpdm_cli.evaluation.classification",
    "verify": "dpdm_cli.publishing.verifying",
    "report": "dpdm_cli.reporting.run",
    "compare": "dpdm_cli.reporting.comparing",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dpdm_cli' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
