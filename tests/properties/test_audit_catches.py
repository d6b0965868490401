"""The audit passes correct code and catches every mutant."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from support import tiny
from support.mutants import COPIES, MUTANTS
from support.mutants_of_people import PEOPLE

from dpdm_cli.privacy.accounting.claims import calibrate
from dpdm_cli.privacy.audit import checks
from dpdm_cli.privacy.audit.canaries import Canaries, CanaryAudit, play
from dpdm_cli.privacy.audit.checks import check_all
from dpdm_cli.privacy.audit.findings import Finding
from dpdm_cli.training.probe_records import ProbeRecords

pytestmark = pytest.mark.slow

PLAN = tiny.plan(
    dataset_size=64,
    expected_batch_size=16,
    sigma=1.0,
    noise_multiplicity=COPIES,
    warm_start="moments",
    warm_sigma=1.0,
)


def replayed(workers: int = 1, **changes: Any) -> list[Finding]:
    model = tiny.denoiser()
    plan = dataclasses.replace(PLAN, **changes)
    probes = ProbeRecords(model, tiny.config(), plan.noise_multiplicity, 16, plan.record)
    return check_all(
        model.network,
        probes.losses,
        plan,
        records=probes.count,
        suspects=probes.suspects,
        micro_batch=8,
        workers=workers,
    )


def attacked(count: int = 600) -> CanaryAudit:
    model = tiny.denoiser()
    canaries = Canaries(model.network, dirac=count - 60, dense=60)
    plan = calibrate(
        epsilon=5.76, delta=1e-5, dataset_size=count, expected_batch_size=count, steps=2
    )
    return play(model.network, canaries, plan, copies=COPIES, micro_batch=32)


@pytest.mark.parametrize("seed", range(10))
def test_correct_code_is_not_blamed(seed: int) -> None:
    torch.manual_seed(seed)
    wrong = [finding for finding in replayed() if not finding.passed]
    assert not wrong


@pytest.mark.parametrize(
    "changes",
    [
        {"sigma": 80.0, "noise_multiplicity": 1},
        {"sigma": 0.3, "clip_norm": 0.01},
        {"expected_batch_size": 1e-3},
        {"expected_batch_size": 64, "clip_norm": 100.0},
        {"unit": "one person"},
        {"unit": "one person", "noise_multiplicity": 1, "clip_norm": 0.01},
    ],
)
def test_correct_code_is_not_blamed_under_other_plans(changes: dict[str, float]) -> None:
    assert not [finding for finding in replayed(workers=2, **changes) if not finding.passed]


PARTS = {
    "sensitivity": ("check_sensitivity", "check_tensors"),
    "noise": ("check_noise",),
    "ledger": ("check_noise",),
    "precision": ("check_precision",),
    "sampler": ("check_sampler",),
    "warm start": ("check_warm_start",),
}
"""By the first words of what they find: all of what `check_all` does."""


def leave_out_all_but(detector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant is caught by the part that is to catch it, whatever the others find; they only take time."""
    (kept,) = [names for words, names in PARTS.items() if detector.startswith(words)]
    for name in {name for names in PARTS.values() for name in names} - {*kept}:
        monkeypatch.setattr(checks, name, lambda *_: [])


@pytest.mark.parametrize("name", MUTANTS)
def test_the_replay_catches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_all_but(MUTANTS[name].detector, monkeypatch)
    MUTANTS[name].break_it(monkeypatch)
    wrong = [finding.name for finding in replayed() if not finding.passed]
    assert any(found.startswith(MUTANTS[name].detector) for found in wrong), wrong


@pytest.mark.parametrize("name", PEOPLE)
def test_the_replay_among_persons_catches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    break_it, detector = PEOPLE[name]
    leave_out_all_but(detector, monkeypatch)
    break_it(monkeypatch)
    wrong = [finding.name for finding in replayed(unit="one person") if not finding.passed]
    assert any(found.startswith(detector) for found in wrong), wrong


@pytest.mark.parametrize("seed", range(10))
def test_canaries_do_not_blame_correct_code_and_come_near_its_claim(seed: int) -> None:
    audit = attacked()
    assert audit.passed, audit.worst
    pool = audit.shown[0]
    assert (pool.one_run or 0) <= audit.claimed
    assert 0.4 * audit.claimed < pool.gaussian_mean <= 1.2 * audit.claimed


@pytest.mark.parametrize("name", [name for name, mutant in MUTANTS.items() if mutant.canaries])
def test_canaries_catch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name].break_it(monkeypatch)
    assert not attacked(1400).passed


def test_a_canarys_gradient_is_the_weights_it_reads() -> None:
    model = tiny.denoiser()
    canaries = Canaries(model.network, dirac=200, dense=6)
    assert len({tuple(sorted(reads.items())) for reads in canaries.reads}) == len(canaries) == 206
    assert set(canaries.groups) == {"dense", *canaries.names}
    parameters = list(model.network.parameters())
    for index in (0, 3, *range(6, 206, 7)):
        loss = canaries.losses(torch.tensor([index]), COPIES).sum()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for tensor, (gradient, parameter) in enumerate(zip(gradients, parameters, strict=True)):
            expected = torch.zeros(parameter.numel())
            if tensor in canaries.reads[index]:
                place, weight = canaries.reads[index][tensor]
                expected[place] = 1e3 * weight
            found = torch.zeros_like(parameter) if gradient is None else gradient
            assert (found.flatten() - expected).abs().max() < 1e-2
