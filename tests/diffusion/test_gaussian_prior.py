"""The preconditioning by a Gaussian is the exact denoiser of that Gaussian, and EDM's where all variances are EDM's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dpdm_cli.diffusion.denoiser import EDM, Denoiser
from dpdm_cli.diffusion.gaussian_prior import GaussianPrior
from dpdm_cli.diffusion.low_frequencies import LowFrequencies
from dpdm_cli.errors import UsageError
from dpdm_cli.training.warm_start import new_prior

SHAPES = [(1, 8, 8), (3, 6, 6), (1, 5, 7)]


class Echo(nn.Module):
    """A network whose output is given."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        return self.output


def denoised(
    prior: GaussianPrior, x: Tensor, output: Tensor, sigma: Tensor, labels: Tensor | None
) -> Tensor:
    return prior.posterior_mean(x, sigma, labels) + prior.scaled(output, sigma, labels)


def random_prior(shape: tuple[int, int, int], labels: int = 3) -> GaussianPrior:
    prior = GaussianPrior(shape, labels - 1, 10, 4)
    prior.means.copy_(torch.randn(labels, 10))
    prior.directions.copy_(torch.linalg.qr(torch.randn(labels, 10, 4)).Q)
    prior.variances.copy_(torch.rand(labels, 4) * 3 + 0.1)
    prior.elsewhere.fill_(0.05)
    return prior.double()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_basis_is_orthonormal_and_whole_when_nothing_is_cut_off(
    shape: tuple[int, int, int],
) -> None:
    images = torch.randn(4, *shape)
    whole = LowFrequencies(shape, 10_000)
    assert whole.size == math.prod(shape)
    torch.testing.assert_close(
        whole.images(whole.coefficients(images)), images, atol=1e-4, rtol=1e-4
    )
    some = LowFrequencies(shape, 12)
    assert some.size == 12
    kept = some.images(some.coefficients(images))
    torch.testing.assert_close(some.coefficients(kept), some.coefficients(images))
    assert (kept.flatten(1).norm(dim=1) <= images.flatten(1).norm(dim=1)).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("most", [1, 2, 5, 9])
def test_a_few_coefficients_are_the_first_of_all(shape: tuple[int, int, int], most: int) -> None:
    images = torch.randn(4, *shape)
    every = LowFrequencies(shape, 10_000).coefficients(images)
    few = LowFrequencies(shape, most).coefficients(images)
    torch.testing.assert_close(few, every[:, :most])


def test_the_first_coefficient_is_brightness() -> None:
    grey = torch.full((1, 3, 6, 6), 0.5)
    found = LowFrequencies((3, 6, 6), 20).coefficients(grey)[0]
    assert found[0] == pytest.approx(0.5 * math.sqrt(108), rel=1e-5)
    assert found[1:].abs().max() < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_posterior_mean_of_its_gaussian_and_scales_outputs_by_the_posterior_deviation(
    shape: tuple[int, int, int],
) -> None:
    prior = random_prior(shape)
    size = math.prod(shape)
    x, output = torch.randn(2, 5, *shape).double()
    sigma = torch.tensor([0.02, 0.3, 1.0, 5.0, 80.0]).double()
    labels = torch.tensor([0, 1, 2, 0, 1])
    found = denoised(prior, x, output, sigma, labels)
    for row, label in enumerate(labels.tolist()):
        mean = prior.low.images(prior.means[label][None]).flatten()
        along = prior.low.images(prior.directions[label].T).flatten(1).T  # [pixels, k]
        extra = torch.diag(prior.variances[label] - prior.elsewhere)
        covariance = along @ extra @ along.T + prior.elsewhere * torch.eye(size)
        values, vectors = torch.linalg.eigh(covariance.double())
        squared = sigma[row] ** 2
        signal = vectors @ torch.diag(values / (values + squared)) @ vectors.T
        deviation = vectors @ torch.diag((values * squared / (values + squared)).sqrt()) @ vectors.T
        expected = mean + signal @ (x[row].flatten() - mean) + deviation @ output[row].flatten()
        torch.testing.assert_close(found[row].flatten(), expected, atol=1e-6, rtol=1e-5)


def test_with_edms_variance_everywhere_it_is_edm() -> None:
    x, output = torch.randn(2, 4, 1, 8, 8)
    sigma, labels = torch.tensor([0.1, 0.5, 2.0, 40.0]), torch.tensor([0, 1, 1, 0])
    edm = EDM()
    plain = Denoiser(Echo(output), edm)(x, sigma, labels)
    prior = GaussianPrior((1, 8, 8), 1, 20, 6)
    torch.testing.assert_close(Denoiser(Echo(output), edm, prior)(x, sigma, labels), plain)


def test_no_label_is_the_last_one() -> None:
    prior = random_prior((1, 8, 8))
    x, output = torch.randn(2, 3, 1, 8, 8).double()
    sigma = torch.ones(3).double()
    last = torch.full((3,), 2)
    torch.testing.assert_close(
        denoised(prior, x, output, sigma, None), denoised(prior, x, output, sigma, last)
    )


def test_rows_do_not_see_each_other() -> None:
    prior = random_prior((1, 8, 8))
    x, output = torch.randn(2, 3, 1, 8, 8).double()
    sigma, labels = torch.tensor([0.5, 1.0, 2.0]).double(), torch.tensor([0, 1, 2])
    whole = denoised(prior, x, output, sigma, labels)
    alone = denoised(prior, x[1:2], output[1:2], sigma[1:2], labels[1:2])
    torch.testing.assert_close(whole[1:2], alone)


def test_its_gradient_reaches_the_network_alone() -> None:
    prior = random_prior((1, 8, 8))
    assert not list(prior.parameters())
    output = torch.randn(2, 1, 8, 8).double().requires_grad_()
    x = torch.randn(2, 1, 8, 8).double()
    found = denoised(prior, x, output, torch.ones(2).double(), torch.tensor([0, 1]))
    (gradient,) = torch.autograd.grad(found.sum(), output)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_in_bf16_training_it_computes_in_float32() -> None:
    prior = GaussianPrior((1, 8, 8), 1, 20, 6)
    x, output = torch.randn(2, 4, 1, 8, 8)
    sigma, labels = torch.full((4,), 0.3), torch.tensor([0, 1, 1, 0])
    wide = denoised(prior, x, output, sigma, labels)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(denoised(prior, x, output, sigma, labels), wide)


def test_a_network_is_shown_the_estimate_beside_the_noisy_image() -> None:
    prior = random_prior((1, 8, 8)).float()
    x, sigma, labels = torch.randn(4, 1, 8, 8), torch.full((4,), 0.3), torch.tensor([0, 1, 2, 0])
    seen = []

    class Looks(nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
            seen.append(x)
            return torch.zeros(4, 1, 8, 8)

    edm = EDM()
    found = Denoiser(Looks(), edm, prior, sees_prior=True)(x, sigma, labels)
    estimate = prior.posterior_mean(x, sigma, labels)
    torch.testing.assert_close(found, estimate)
    torch.testing.assert_close(seen[0][:, :1], edm.scalings(sigma).c_in.view(-1, 1, 1, 1) * x)
    torch.testing.assert_close(seen[0][:, 1:], math.sqrt(3) * estimate)
    with pytest.raises(ValueError, match="shown a prior"):
        Denoiser(Looks(), edm, sees_prior=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_noisy_images_have_its_mean_and_its_covariance_with_the_noise(
    shape: tuple[int, int, int],
) -> None:
    prior = random_prior(shape)
    size = math.prod(shape)
    white = torch.eye(size).double().view(size, *shape)
    sigma, labels = torch.full((size,), 0.7).double(), torch.full((size,), 1)
    mean = prior.noisy(torch.zeros_like(white[:1]), sigma[:1], labels[:1])
    torch.testing.assert_close(mean, prior.low.images(prior.means[1:2]))
    root = (prior.noisy(white, sigma, labels) - mean).flatten(1)
    along = prior.low.images(prior.directions[1].T).flatten(1).T
    expected = along @ torch.diag(prior.variances[1] - prior.elsewhere) @ along.T
    expected = expected + (prior.elsewhere + 0.49) * torch.eye(size)
    torch.testing.assert_close(root.T @ root, expected, atol=1e-6, rtol=1e-5)


def test_a_basis_that_no_memory_is_worth_is_refused_before_it_is_made() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="more than are kept in memory"):
        GaussianPrior((3, 1024, 1024), 10, 1024, 1024)
    with pytest.raises(UsageError, match="no warm start for such images"):
        new_prior((3, 1024, 1024), 10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("most", [1, 10, 500])
@pytest.mark.parametrize("directions", [1, 8, 600])
def test_its_tensors_have_the_shapes_it_is_said_to_have(
    shape: tuple[int, int, int], most: int, directions: int
) -> None:
    made = GaussianPrior(shape, 2, most, directions).state_dict()
    forms = GaussianPrior.forms(shape, 2, most, directions)
    assert {name: tuple(tensor.shape) for name, tensor in made.items()} == forms
    assert all(tensor.dtype == torch.float32 for tensor in made.values())
