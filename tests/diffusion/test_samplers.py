"""Samplers against the cases with a closed form: Gaussian data and mixtures of it, whose denoisers are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from support import gaussian_mixture
from torch import Tensor

from dpdm_cli.diffusion.generation import SamplerSettings
from dpdm_cli.diffusion.samplers import SAMPLERS, Churn, guided, noise_grid
from dpdm_cli.errors import UsageError

SHAPE = (1, 2, 2)
STILL = Churn()


@dataclass
class Gaussian:
    """N(mean, covariance) over 2x2 images, and D(x; sigma) = mean + S (S + sigma^2 I)^-1 (x - mean)."""

    mean: Tensor
    covariance: Tensor
    calls: int = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        assert sigma.shape == x.shape[:1]
        assert sigma.min() == sigma.max() > 0
        noisy = self.covariance + sigma[0] ** 2 * torch.eye(4, dtype=x.dtype)
        gain = self.covariance @ noisy.inverse()
        return (self.mean + (x.flatten(1) - self.mean) @ gain.T).view(x.shape)


class Noise:
    def __init__(self, rows: int, seed: int = 0) -> None:
        self.rows, self.draws = rows, 0
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self) -> Tensor:
        self.draws += 1
        return torch.randn(self.rows, *SHAPE, generator=self.generator, dtype=torch.float64)


@pytest.fixture
def data() -> Gaussian:
    generator = torch.Generator().manual_seed(1)
    directions = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    spread = torch.tensor([0.6, 0.3, 0.15, 0.1], dtype=torch.float64)  # standard deviations
    mean = torch.tensor([0.5, -0.3, 0.1, 0.0], dtype=torch.float64)
    return Gaussian(mean, directions @ torch.diag(spread**2) @ directions.T)


def draw(
    name: str, denoise: object, rows: int, steps: int, churn: Churn = STILL, t_min: float = 0.002
) -> Tensor:
    noise, grid = Noise(rows), noise_grid(steps, t_min=t_min)
    x = SAMPLERS[name](denoise, noise() * grid[0], grid, noise, churn)  # type: ignore[arg-type]
    return x.flatten(1)


def whitened_errors(x: Tensor, mean: Tensor, covariance: Tensor) -> tuple[float, float]:
    """Error of the mean in standard deviations, and the largest relative error of a variance in any direction."""
    root = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(root, (x - mean).T, upper=False)
    return white.mean(1).norm().item(), (torch.linalg.eigvalsh(white.cov()) - 1).abs().max().item()


ROWS = 20_000
# Four standard errors of a variance, and of a mean in four directions.
STATISTICAL_VARIANCE, STATISTICAL_MEAN = 4 * math.sqrt(2 / ROWS), 4 * math.sqrt(4 / ROWS)


@pytest.mark.parametrize(
    ("name", "steps", "churn", "discretisation"),
    [
        # Relative error of a variance that this many steps leave, from the order of the method.
        ("ddim", 400, STILL, 0.02),
        ("stochastic-ddim", 400, STILL, 0.02),
        ("euler", 400, Churn(amount=20, lowest=0.05, highest=50), 0.06),
        ("heun", 100, STILL, 0.005),
        ("heun", 200, Churn(amount=40, lowest=0.05, highest=50), 0.01),
        ("heun", 200, Churn(amount=200), 0.02),
    ],
)
def test_samples_of_a_gaussian_have_its_mean_and_covariance(
    data: Gaussian, name: str, steps: int, churn: Churn, discretisation: float
) -> None:
    x = draw(name, data, ROWS, steps, churn)
    mean_error, variance_error = whitened_errors(x, data.mean, data.covariance)
    # Sampling starts from N(0, t_max^2), not from N(mean, S + t_max^2): a shift of mean/t_max remains.
    start = data.mean.norm().item() / 80
    assert mean_error < STATISTICAL_MEAN + start
    assert variance_error < STATISTICAL_VARIANCE + discretisation


def path_error(name: str, data: Gaussian, steps: int) -> float:
    """Largest distance to the exact solution of the probability-flow equation from the same noise."""
    x = draw(name, data, 100, steps, t_min=1e-4)
    start = Noise(100)().flatten(1) * 80
    values, vectors = torch.linalg.eigh(data.covariance)
    shrink = vectors @ torch.diag((values / (values + 80**2)).sqrt()) @ vectors.T
    exact = data.mean + (start - data.mean) @ shrink.T
    return (x - exact).norm(dim=1).max().item()


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2)])
def test_a_deterministic_path_converges_to_the_exact_one_at_the_order_of_its_method(
    data: Gaussian, name: str, order: int
) -> None:
    coarse, fine = path_error(name, data, 100), path_error(name, data, 200)
    assert fine < 0.05
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


def test_euler_without_churn_is_ddim(data: Gaussian) -> None:
    assert torch.equal(draw("euler", data, 50, 20), draw("ddim", data, 50, 20))


@pytest.mark.parametrize("steps", [1, 2, 17])
@pytest.mark.parametrize("amount", [0, 5])
def test_a_step_costs_one_evaluation_and_heun_two_but_in_the_last(
    data: Gaussian, steps: int, amount: float
) -> None:
    costs = {}
    for name in SAMPLERS:
        data.calls = 0
        draw(name, data, 3, steps, Churn(amount=amount))
        costs[name] = data.calls
    assert costs == {"ddim": steps, "stochastic-ddim": steps, "euler": steps, "heun": 2 * steps - 1}


@pytest.mark.parametrize("name", ["ddim", "euler", "heun"])
def test_without_churn_no_noise_is_drawn(data: Gaussian, name: str) -> None:
    noise, grid = Noise(3), noise_grid(9)
    SAMPLERS[name](data, torch.ones(3, *SHAPE, dtype=torch.float64), grid, noise, STILL)
    assert noise.draws == 0


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_churn_adds_noise_at_the_levels_of_its_range_ends_included(
    data: Gaussian, name: str
) -> None:
    noise, grid = Noise(3), noise_grid(40)
    churn = Churn(amount=4, lowest=grid[30], highest=grid[10])
    SAMPLERS[name](data, torch.ones(3, *SHAPE, dtype=torch.float64), grid, noise, churn)
    assert noise.draws == 21


def test_churn_raises_the_level_by_its_share_of_a_step_and_never_beyond_the_square_root_of_two() -> (
    None
):
    assert Churn(amount=10).gamma(1.0, 50) == pytest.approx(0.2)
    assert Churn(amount=1000).gamma(1.0, 50) == pytest.approx(math.sqrt(2) - 1)
    assert Churn(amount=10, lowest=2.0).gamma(1.0, 50) == 0


def test_a_churned_step_starts_from_the_variance_of_its_raised_level(data: Gaussian) -> None:
    """x at level t plus the noise that churn adds is x at level t_hat: evaluations see t_hat and its variance."""
    seen: list[tuple[float, float]] = []

    def watch(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append((sigma[0].item(), x.var().item()))
        return torch.zeros_like(x)  # all data at 0: x at level t has variance t^2 exactly

    noise, grid = Noise(20_000), noise_grid(5)
    SAMPLERS["heun"](watch, noise() * grid[0], grid, noise, Churn(amount=1))
    for level, variance in seen:
        assert variance == pytest.approx(level**2, rel=0.03)
    assert seen[0][0] == pytest.approx(1.2 * grid[0])


def test_the_grid_falls_from_t_max_to_t_min_and_then_to_zero() -> None:
    for steps in (2, 3, 50):
        grid = noise_grid(steps, t_min=0.002, t_max=80.0)
        assert len(grid) == steps + 1
        assert (grid[0], grid[-2], grid[-1]) == (80.0, 0.002, 0.0)
        assert sorted(grid, reverse=True) == grid
        assert len(set(grid)) == len(grid)


def test_the_grid_is_even_in_the_root_of_rho() -> None:
    roots = torch.tensor(noise_grid(9, rho=7.0)[:-1], dtype=torch.float64) ** (1 / 7)
    gaps = roots.diff()
    assert gaps.tolist() == pytest.approx([gaps[0].item()] * 8)


def test_guidance_is_linear_in_the_two_denoisers() -> None:
    x, sigma = torch.randn(5, *SHAPE), torch.ones(5)
    labelled, unlabelled = torch.randn(5, *SHAPE), torch.randn(5, *SHAPE)
    for weight in (0.25, 1.0, 3.0):
        combined = guided(lambda x, s: labelled, lambda x, s: unlabelled, weight)(x, sigma)
        torch.testing.assert_close(combined, labelled + weight * (labelled - unlabelled))


def test_no_guidance_leaves_the_unlabelled_denoiser_alone(data: Gaussian) -> None:
    def never(x: Tensor, sigma: Tensor) -> Tensor:
        raise AssertionError("evaluated")

    assert guided(data, never, 0.0) is data


def test_guided_samples_of_two_gaussians_of_one_shape_lie_beyond_the_first_mean(
    data: Gaussian,
) -> None:
    """With one covariance the guided denoiser is that of N((1 + w) mean - w other, S)."""
    other = Gaussian(torch.tensor([-0.1, 0.2, 0.0, 0.3], dtype=torch.float64), data.covariance)
    x = draw("heun", guided(data, other, 0.5), 10_000, 60)
    mean_error, variance_error = whitened_errors(
        x, 1.5 * data.mean - 0.5 * other.mean, data.covariance
    )
    assert mean_error < 4 * math.sqrt(4 / 10_000) + 0.02
    assert variance_error < 4 * math.sqrt(2 / 10_000) + 0.01


@pytest.mark.parametrize(
    "values",
    [
        {"amount": -1.0},
        {"amount": math.nan},
        {"amount": math.inf},
        {"scale": -0.1},
        {"lowest": 1.0, "highest": 0.5},
        {"lowest": math.nan},
        {"highest": math.nan},
    ],
)
def test_churn_that_makes_no_sense_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Churn(**values)


@pytest.mark.parametrize(
    ("steps", "values"),
    [
        (0, {}),
        (-3, {}),
        (5, {"t_min": 0.0}),
        (5, {"t_min": 90.0}),
        (5, {"t_max": math.inf}),
        (5, {"rho": math.nan}),
        (5, {"rho": 0.0}),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(steps: int, values: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        noise_grid(steps, **values)


def test_the_default_keeps_the_variance_of_a_mixture_within_three_percent_where_ddim_does_not() -> (
    None
):
    """As `tests/benchmarks/samplers.py`, with fewer samples and the denoiser in closed form."""
    data = gaussian_mixture.digits()
    rows = 10_000
    whole, narrow = data.spread(SamplerSettings(), rows)
    costs, data.calls = data.calls, 0
    ddim_whole, ddim_narrow = data.spread(SamplerSettings(sampler="ddim"), rows)
    assert abs(whole - 1) < 0.03
    assert ddim_whole < 0.93
    assert abs(narrow - 1) < abs(ddim_narrow - 1)
    assert costs < 1.2 * data.calls


def test_the_mixtures_denoiser_is_the_mean_of_what_noise_hides() -> None:
    """Tweedie: D(x; s) = x + s^2 times the slope of the log density of data with noise s."""
    data = gaussian_mixture.digits()
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for noise in (0.1, 1.0, 10.0):
        rows = x.flatten(1).requires_grad_()
        deviations = (data.variances + noise**2).sqrt()
        parts = torch.distributions.Normal(data.means, deviations).log_prob(rows[:, None]).sum(-1)
        (slope,) = torch.autograd.grad(parts.logsumexp(1).sum(), rows)
        expected = rows + noise**2 * slope
        found = data(x, torch.full((5,), noise, dtype=torch.float64)).flatten(1)
        torch.testing.assert_close(found, expected.detach())
