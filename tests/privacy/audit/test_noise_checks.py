"""The checks of noise on numbers that are given: what they count is what chance makes of normal numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import tiny
from support.mutants_of_draws import NOISE

from dpdm_cli.privacy import noise as noise_module
from dpdm_cli.privacy.audit.findings import PUBLIC_GRID, Finding
from dpdm_cli.privacy.audit.noise import repetition as noise_repetition
from dpdm_cli.privacy.audit.noise.checks import check_noise
from dpdm_cli.privacy.audit.noise.distribution import distribution_findings
from dpdm_cli.privacy.audit.noise.repetition import (
    check_seeds,
    lags_finding,
    repetition_findings,
)
from dpdm_cli.privacy.audit.replay import steps_alone
from dpdm_cli.privacy.entropy import standard_normal
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.step import PrivateStep


def on_grid(noise: np.ndarray) -> torch.Tensor:
    return (torch.from_numpy(noise) / PUBLIC_GRID).round() * PUBLIC_GRID


def judged(noise: torch.Tensor) -> dict[str, bool]:
    sizes = [noise.shape[1] // 4] * 4
    findings = [
        *distribution_findings(noise, ["a", "b", "c", "d"], sizes),
        lags_finding(noise),
        *repetition_findings(noise),
    ]
    return {finding.name.removeprefix("noise, "): finding.passed for finding in findings}


@pytest.mark.parametrize("size", [8, 400, 40_000])
def test_normal_numbers_pass_also_when_they_are_few(size: int) -> None:
    for _ in range(5):
        assert all(judged(on_grid(standard_normal(4 * size).reshape(4, size))).values())


def test_pairs_of_equal_numbers_have_the_mean_and_variance_they_are_judged_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    monkeypatch.setattr(noise_repetition, "count_z", lambda *a: seen.append(a) or 0.0)
    # On a coarse grid, where pairs that share a number make most of the variance.
    monkeypatch.setattr(noise_repetition, "PUBLIC_GRID", 2.0**-6)
    random = np.random.default_rng(0)
    for _ in range(400):
        repetition_findings(torch.from_numpy(random.standard_normal((4, 500))))
    found, means, variances = np.array(seen).T
    assert found.mean() == pytest.approx(means[0], rel=4 * (variances[0] / 400) ** 0.5 / means[0])
    assert found.var() == pytest.approx(variances[0], rel=0.3)


def wrong(size: int, kind: str) -> np.ndarray:
    """Noise of one release that is wrong in one tensor, or one place, of four."""
    noise = standard_normal(size).reshape(4, -1)
    if kind == "uniform in a tensor":
        noise[2] = np.random.default_rng().uniform(-(3**0.5), 3**0.5, size // 4)
    elif kind == "tensors alike in size":
        noise[3] = np.abs(noise[0]) * np.sign(noise[3])
    elif kind == "a stretch again":
        noise[3, 5:9] = -noise[1, 100:104]
    return noise.flatten()


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("uniform in a tensor", "distribution"),
        ("tensors alike in size", "lags"),
        ("a stretch again", "repeated segments"),
    ],
)
def test_what_is_wrong_in_one_place_is_found(kind: str, what: str) -> None:
    noise = on_grid(np.stack([wrong(8_000, kind) for _ in range(4)]))
    assert not judged(noise)[what]


def test_short_releases_of_a_small_seed_are_alike_sometimes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, device = tiny.plan(sigma=0.7, clip_norm=0.1), torch.device("cpu")
    assert check_seeds(plan, device).passed
    for bits in (8, 16):
        seeds = np.random.default_rng(bits)
        monkeypatch.setattr(
            noise_module,
            "standard_normal",
            lambda n, *_, seeds=seeds, bits=bits: np.random.default_rng(
                seeds.integers(1 << bits)
            ).standard_normal(n),
        )
        assert not check_seeds(plan, device).passed


def noise_findings(**changes: float) -> list[Finding]:
    network = torch.nn.Sequential(torch.nn.Linear(40, 40), torch.nn.Linear(40, 40))
    plan = tiny.plan(**changes)

    def make(sigma: float, steps: int) -> PrivateStep:
        ledger = Ledger(steps_alone(plan, sigma, steps))
        return PrivateStep(network, ledger, records=8, micro_batch=3)

    inputs = torch.randn(8, 40, generator=torch.Generator().manual_seed(0))
    return check_noise(
        make, lambda indices: network(inputs[indices]).square().mean(1), torch.arange(8), plan
    )


@pytest.mark.parametrize(
    ("sigma", "clip", "batch"), [(1.0, 1.0, 16), (0.31, 3e-3, 7.7), (83.0, 41.0, 63.0)]
)
def test_releases_lie_on_the_public_grid(sigma: float, clip: float, batch: float) -> None:
    findings = noise_findings(sigma=sigma, clip_norm=clip, expected_batch_size=batch)
    assert [finding for finding in findings if not finding.passed] == []


@pytest.mark.parametrize("name", ["no public grid", "noise alone on the grid"])
@pytest.mark.parametrize(("sigma", "clip"), [(1.0, 1.0), (0.31, 3e-3)])
def test_releases_beside_the_grid_are_blamed_and_nothing_else(
    name: str, sigma: float, clip: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it, detector = NOISE[name]
    break_it(monkeypatch)
    findings = noise_findings(sigma=sigma, clip_norm=clip)
    assert [finding.name for finding in findings if not finding.passed] == [detector]
