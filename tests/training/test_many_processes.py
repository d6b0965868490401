"""Training by several processes: the same run as by one, and no false success whatever happens to one of them."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import audited_children
from support import process_children as children
from support.poisson_statistics import poisson_p_value
from support.processes_launcher import Exited, launch

from dpdm_cli import verify
from dpdm_cli.checkpoint import read_tensors
from dpdm_cli.errors import DataError, DpdmError, InterruptedRunError

pytestmark = pytest.mark.slow


def relative(mine: torch.Tensor, other: torch.Tensor) -> float:
    return float((mine - other).norm() / other.norm().clamp(min=1e-12))


@pytest.fixture(scope="module", params=["private", "warm start", "not private"])
def one(request: pytest.FixtureRequest) -> tuple[tuple[str, bool], Any]:
    options = {
        "private": ("none", True),
        "warm start": ("moments", True),
        "not private": ("none", False),
    }[request.param]
    return options, launch(1, children.trained_on_given_draws, *options)[0]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_same_draws_give_the_same_run(size: int, one: tuple[tuple[str, bool], Any]) -> None:
    options, (expected, ledger) = one
    outcomes = launch(size, children.trained_on_given_draws, *options)
    for state, entered in outcomes:
        assert entered == ledger
        for name, tensor in state.items():
            assert torch.equal(tensor, outcomes[0][0][name]), name
        # Without noise there are parameters whose gradient is rounding alone, which Adam makes as large as any.
        assert_same_state(state, expected, 1e-5 if options[1] else 1e-4)


def assert_same_state(
    state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], most: float = 1e-5
) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        if name != "prior/directions":  # of eigenvectors the sign is arbitrary
            assert relative(tensor, expected[name]) < most, name
    if "prior/directions" in state:
        assert relative(*map(covariances, (state, expected))) < most


def covariances(state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of the prior, beyond what it has in every direction."""
    directions, variances = state["prior/directions"], state["prior/variances"]
    beyond = variances - state["prior/elsewhere"]
    return torch.einsum("cik,ck,cjk->cij", directions, beyond, directions)


@pytest.mark.parametrize("size", [2, 3])
def test_the_mechanism_of_several_processes_passes_its_audit(size: int) -> None:
    outcomes = launch(size, audited_children.audited, "none", "moments")
    for findings in outcomes:
        assert [f for f in findings if not f.passed] == []
        assert len(findings) > 20


@pytest.mark.parametrize(
    "mutant",
    [
        "noise by all",
        "mean of sums",
        "everyone takes the batch",
        "noise from a seed",
        "no noise beyond the first",
        "sums in float32",
    ],
)
def test_mechanisms_that_several_processes_get_wrong_are_noticed(mutant: str) -> None:
    for findings in launch(2, audited_children.audited, mutant, "moments"):
        assert [f for f in findings if not f.passed], mutant


@pytest.mark.parametrize("size", [2, 3])
def test_the_union_of_the_shares_is_a_poisson_mask(size: int) -> None:
    steps, records, rate = 1000, 200, 0.05
    shares = launch(size, audited_children.shares_of_masks, steps, records, rate)
    masks = np.zeros((steps, records), dtype=bool)
    for step, parts in enumerate(zip(*shares, strict=True)):
        together = [index for part in parts for index in part]
        assert len(set(together)) == len(together)  # nobody is in two shares
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        masks[step, together] = True
    assert poisson_p_value(masks, rate) > 1e-6


# ---------------------------------------------------------------- whole runs


def test_a_run_of_two_is_a_run_of_one(tmp_path: Path) -> None:
    outcomes = launch(2, children.run, tmp_path / "run")
    assert outcomes[0] == outcomes[1]
    statement = outcomes[0]["statement"]
    alone = children.train(tmp_path / "alone").statement.to_json()
    differing = {name for name in alone if alone[name] != statement[name]}
    assert differing <= {"ledger"}
    names = {path.name for path in (tmp_path / "run").rglob("*")}
    assert names == {path.name for path in (tmp_path / "alone").rglob("*")}
    verify([tmp_path / "run"])


def test_a_run_that_goes_on_with_other_numbers_of_processes_ends_as_one_never_stopped(
    tmp_path: Path,
) -> None:
    """Of the same draws: the state in every tensor, and the ledger but for who made which releases."""
    run, alone = tmp_path / "run", tmp_path / "alone"
    for size, until in {2: 2, 1: 4}.items():
        outcomes = launch(size, children.run_on_given_draws, run, until, until > 2)
        assert all(isinstance(o, InterruptedRunError) for o in outcomes), outcomes
        assert saved(run)[1]["done"] == until
    steps = children.WARM_PLAN.steps
    assert launch(4, children.run_on_given_draws, run, steps, True) == [None] * 4
    assert launch(1, children.run_on_given_draws, alone) == [None]
    (tensors, facts), (expected, other) = saved(run), saved(alone)
    assert facts["done"] == other["done"] == steps
    ledger, whole = facts["ledger"], other["ledger"]
    assert ledger["plan_digest"] == whole["plan_digest"]
    assert ledger["releases"] == whole["releases"] == children.WARM_PLAN.releases
    warm = children.WARM_PLAN.warm_releases
    assert [releases for _, releases in ledger["segments"]] == [warm + 2, 2, steps - 4]
    assert_same_state(tensors, expected)
    verify([run])


def saved(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return read_tensors(run / "private" / "state.safetensors", "state")


PUBLISHING = {
    "the second is killed after the model": True,
    "the first is killed after the pictures": False,
    "the first is killed after the manifest": True,
}


@pytest.mark.parametrize("fault", PUBLISHING)
def test_a_process_killed_while_the_first_publishes_is_a_failure_that_resuming_mends(
    fault: str, tmp_path: Path
) -> None:
    """Nobody reports success, even if all files are there by then.

    The first does not wait for others before it publishes: if it lives, it writes everything, then learns that the
    other is gone. So `manifest.json` may stand after a failure, but never over less than a whole run, which `verify`
    finds in order; without it `verify` says that the run is not finished. The same command with --resume ends well.
    """
    out, victim = tmp_path / "run", int(fault.startswith("the second"))
    outcomes = launch(2, children.run, out, f"killed{fault.partition(' killed')[2]}", victim)
    assert isinstance(outcomes[victim], Exited)
    assert outcomes[victim].code == -signal.SIGKILL
    assert isinstance(outcomes[1 - victim], DpdmError), outcomes
    assert outcomes[1 - victim].exit_code != 0
    assert (out / "manifest.json").exists() == PUBLISHING[fault]
    if PUBLISHING[fault]:
        verify([out])
    else:
        with pytest.raises(DataError, match="not finished"):
            verify([out])
    done = launch(2, partial(children.run, resume=True), out)
    assert done[0] == done[1]
    assert done[0]["statement"]["ledger"]["releases"] == children.PLAN.releases
    verify([out])


FAULTS: dict[str, tuple[int, type[BaseException] | int, str]] = {
    "killed before a step": (1, -signal.SIGKILL, ""),
    "killed within a step": (1, -signal.SIGKILL, ""),
    "the first killed within a step": (0, -signal.SIGKILL, ""),
    "killed after the last step": (1, -signal.SIGKILL, ""),
    "dies while loading": (1, -signal.SIGKILL, ""),
    "leaves early": (1, 0, ""),
    "out of memory": (1, DpdmError, "out of memory"),
    "the first out of memory": (0, DpdmError, "out of memory"),
    "a bug": (1, children.Bug, "two and two make five"),
    "silent": (1, TimeoutError, ""),
    "no data": (1, DpdmError, "the disk with the images is gone"),
    "the first has no data": (0, DpdmError, "the disk with the images is gone"),
    "other images": (1, DpdmError, "images, settings"),
    "other settings": (1, DpdmError, "images, settings"),
    "other weights": (1, DpdmError, "weights of process 1"),
    "fails its checks": (1, DpdmError, "precision"),
    "disk full at a save": (0, DpdmError, "no space left"),
    "disk full at the end": (0, DpdmError, "no space left"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_one_process_is_a_failure_of_all(fault: str, tmp_path: Path) -> None:
    rank, kind, words = FAULTS[fault]
    name = fault.removeprefix("the first ").replace("has no data", "no data")
    silence: dict[str, Any] = {"patience": 1.0, "environment": {"DPDM_TIMEOUT": "15"}}
    options = silence if fault == "silent" else {}
    outcomes = launch(2, children.run, tmp_path / "run", name, rank, **options)
    assert not any(isinstance(outcome, dict) for outcome in outcomes), outcomes
    if isinstance(kind, int):
        assert isinstance(outcomes[rank], Exited)
        assert outcomes[rank].code == kind
    else:
        assert isinstance(outcomes[rank], kind), outcomes
        assert words in str(outcomes[rank])
    other = outcomes[1 - rank]
    assert isinstance(other, DpdmError), outcomes
    assert words in str(other)  # it says what the one that failed has said
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_one_process_of_two_does_not_wait_for_ever(tmp_path: Path) -> None:
    (outcome,) = launch(
        1, children.run, tmp_path / "run", environment={"WORLD_SIZE": "2", "DPDM_TIMEOUT": "4"}
    )
    assert isinstance(outcome, DpdmError)
    assert not (tmp_path / "run").exists()


def test_a_slow_process_is_waited_for(tmp_path: Path) -> None:
    outcomes = launch(2, children.run, tmp_path / "run", "slow", 1)
    assert outcomes[0] == outcomes[1]
    assert (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stop_request_to_one_process_stops_all_with_a_saved_state(
    rank: int, tmp_path: Path
) -> None:
    outcomes = launch(2, children.run, tmp_path / "run", "asked to stop", rank)
    assert all(isinstance(o, InterruptedRunError) and o.exit_code == 143 for o in outcomes)
    state = tmp_path / "run" / "private" / "state.safetensors"
    assert read_tensors(state, "state")[1]["done"] == 4


def test_a_damaged_state_is_refused_by_all(tmp_path: Path) -> None:
    launch(2, children.run, tmp_path / "run", "asked to stop", 1)
    state = tmp_path / "run" / "private" / "state.safetensors"
    content = bytearray(state.read_bytes())
    content[-5] ^= 1
    state.write_bytes(content)
    outcomes = launch(2, partial(children.run, resume=True), tmp_path / "run")
    assert [o.exit_code for o in outcomes] == [4, 4]


def test_a_folder_that_is_in_use_is_refused_by_all(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep")
    outcomes = launch(2, children.run, tmp_path / "run")
    assert [o.exit_code for o in outcomes] == [2, 2]
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["mine.txt"]
