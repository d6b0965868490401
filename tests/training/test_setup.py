"""What the processes of a run must be told alike before they do anything together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support import process_children as children
from support.processes_launcher import launch

from dpdm_cli.errors import ResourceError

pytestmark = pytest.mark.slow


def train_unlike(out: Path, odd: int, changes: dict[str, Any]) -> None:
    """Train with other options in one of the processes."""
    children.train(out, **(changes if int(os.environ["RANK"]) == odd else {}))


@pytest.mark.parametrize("odd", [0, 1])
@pytest.mark.parametrize("changes", [{"log_losses": True}, {"resume": True}, {"preview": 2}])
def test_options_that_decide_which_calls_follow_are_compared_before_any(
    odd: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    outcomes = launch(
        2, train_unlike, tmp_path / "run", odd, changes, environment={"DPDM_TIMEOUT": "10"}
    )
    for found in outcomes:
        # Not that one has lost the other, as after the time limit.
        assert isinstance(found, ResourceError), found
        assert found.message == (
            "the data, --non-private, --resume, --log-losses or --preview of process 1 of 2 differ from those of "
            "process 0"
        )
    assert not (tmp_path / "run").exists()
