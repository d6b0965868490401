"""One server for all processes of tests, with what they need loaded: a child is forked in a fraction of a second."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

_LOADED = [
    "pytest",
    "support.command_children",
    "support.fault_children",
    "support.process_children",
    "dpdm_cli.auditing.run",
    "dpdm_cli.commands.app",
    "dpdm_cli.data.prepare.preparing",
    "dpdm_cli.evaluation.classification",
    "dpdm_cli.evaluation.scoring",
    "dpdm_cli.publishing.releasing",
    "dpdm_cli.sampling.run",
    "dpdm_cli.training.dry_run",
    "dp_accounting.pld.privacy_loss_distribution",
    "opacus.accountants.analysis.prv",
    "sklearn.datasets",
    "torch._dynamo",
]


def server() -> ForkServerContext:
    """Start it, unless it runs.

    It leaves out, and says nothing of, modules that it can't find; it looks for them where PYTHONPATH says and not, as
    pytest does, in the folder of `conftest.py`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LOADED)
    before = os.environ.get("PYTHONPATH")
    places = [str(Path(__file__).parents[1]), *([before] if before else [])]
    os.environ["PYTHONPATH"] = os.pathsep.join(places)
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context
