"""The parameterisations: boundary conditions, unit variance, distributions of noise levels."""

from __future__ import annotations

import math

import pytest
import torch

from dpdm_cli.diffusion.denoiser import EDM, PARAMETERISATIONS, VPrediction


@pytest.mark.parametrize("kind", PARAMETERISATIONS)
def test_the_denoiser_returns_its_input_as_the_noise_vanishes(kind: str) -> None:
    scalings = PARAMETERISATIONS[kind].scalings(torch.tensor([1e-6], dtype=torch.float64))
    assert scalings.c_skip.item() == pytest.approx(1, abs=1e-6)
    assert abs(scalings.c_out.item()) < 1e-5


@pytest.mark.parametrize("kind", ["edm", "v", "vp"])
def test_the_networks_input_has_bounded_variance_at_every_noise_level(kind: str) -> None:
    sigma = torch.logspace(-3, 2, 50, dtype=torch.float64)
    c_in = PARAMETERISATIONS[kind].scalings(sigma).c_in
    data_variance = 1 / 3 if kind == "edm" else 1.0
    assert torch.allclose(c_in**2 * (data_variance + sigma**2), torch.ones_like(sigma))


@pytest.mark.parametrize("kind", ["edm", "v"])
def test_the_weight_makes_the_effective_loss_uniform(kind: str) -> None:
    # lambda(sigma) c_out(sigma)^2 = 1, EDM equation 8
    sigma = torch.logspace(-3, 2, 50, dtype=torch.float64)
    parameterisation = PARAMETERISATIONS[kind]
    effective = parameterisation.weight(sigma) * parameterisation.scalings(sigma).c_out ** 2
    assert torch.allclose(effective, torch.ones_like(sigma))


@pytest.mark.parametrize(
    ("kind", "tail"), [("edm", (0.159, 0.028, 0.0018)), ("v", (0.50, 0.205, 0.064))]
)
def test_the_share_of_high_noise_is_the_papers(kind: str, tail: tuple[float, float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(400_000, generator=generator, dtype=torch.float64)
    normal = torch.randn(400_000, generator=generator, dtype=torch.float64)
    sigma = PARAMETERISATIONS[kind].noise_levels(uniform, normal)
    for threshold, share in zip((1, 3, 10), tail, strict=True):
        assert (sigma > threshold).double().mean().item() == pytest.approx(share, abs=0.01)


def test_v_prediction_keeps_to_its_range_of_log_snr() -> None:
    ends = VPrediction().noise_levels(torch.tensor([0.0, 1.0], dtype=torch.float64), torch.zeros(2))
    assert (-2 * ends.log()).tolist() == pytest.approx([13.0, -9.0], abs=1e-6)


def test_vp_time_inverts_its_own_noise_schedule() -> None:
    vp = PARAMETERISATIONS["vp"]
    uniform = torch.linspace(0, 1, 11, dtype=torch.float64)
    time = vp.scalings(vp.noise_levels(uniform, uniform)).c_noise / 999
    assert torch.allclose(time, 1e-5 + (1 - 1e-5) * uniform, atol=1e-9)


def test_edm_is_the_best_linear_denoiser_when_the_network_is_silent() -> None:
    # For data of variance sigma_data^2, c_skip is Wiener's filter.
    edm = EDM()
    sigma = torch.tensor([0.5], dtype=torch.float64)
    assert edm.scalings(sigma).c_skip.item() == pytest.approx((1 / 3) / (1 / 3 + 0.25))
    assert edm.sigma_data == pytest.approx(math.sqrt(1 / 3))
