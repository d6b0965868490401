from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from dpdm_cli.errors import DataError
from dpdm_cli.evaluation.distances.frechet import FeatureStatistics, frechet_distance


def features(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64)
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ mix * scale + shift


def gaussian(mean: torch.Tensor, covariance: torch.Tensor, n: int = 101) -> FeatureStatistics:
    return FeatureStatistics(n, mean.double(), covariance.double() * (n - 1))


def independent(x: np.ndarray, y: np.ndarray) -> float:
    """Through the eigenvalues of the unsymmetric product S1 S2."""
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    cross = np.sqrt(np.clip(scipy.linalg.eigvals(s1 @ s2).real, 0, None)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * cross)


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_streamed_statistics_equal_those_of_the_whole(batch: int) -> None:
    x = features(500, 6, 0, shift=3.0)
    stream = FeatureStatistics.empty(6)
    for part in x.split(batch):
        stream += FeatureStatistics.of(part)
    stream += FeatureStatistics.of(x[:0])
    assert stream.count == 500
    torch.testing.assert_close(stream.mean, x.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(stream.covariance(), torch.cov(x.T), rtol=1e-10, atol=1e-10)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    x = features(400, 4, 1)
    far = FeatureStatistics.empty(4)
    for part in (x + 1e7).split(32):
        far += FeatureStatistics.of(part)
    torch.testing.assert_close(far.covariance(), torch.cov(x.T), rtol=1e-6, atol=1e-6)


def test_commuting_covariances_give_the_closed_form() -> None:
    g = torch.Generator().manual_seed(2)
    basis, _ = torch.linalg.qr(torch.randn(9, 9, generator=g, dtype=torch.float64))
    a, b = torch.rand(2, 9, generator=g, dtype=torch.float64) * 5
    m1, m2 = torch.randn(2, 9, generator=g, dtype=torch.float64)
    distance = frechet_distance(
        gaussian(m1, basis * a @ basis.T), gaussian(m2, basis * b @ basis.T)
    )
    expected = (m1 - m2).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert distance == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_distance_equals_an_independent_computation(scale: float) -> None:
    x, y = features(300, 12, 3, scale), features(200, 12, 4, scale, shift=0.5 * scale)
    ours = frechet_distance(FeatureStatistics.of(x), FeatureStatistics.of(y))
    assert ours == pytest.approx(independent(x.numpy(), y.numpy()), rel=1e-9)


def test_fewer_images_than_features_still_gives_the_distance() -> None:
    x, y = features(5, 20, 5), features(8, 20, 6)
    ours = frechet_distance(FeatureStatistics.of(x), FeatureStatistics.of(y))
    # The nuclear norm of Y_c X_c^T is the cross term, computed here from the data alone.
    xc, yc = (x - x.mean(0)) / 2.0, (y - y.mean(0)) / 7.0**0.5
    cross = np.linalg.svd((yc @ xc.T).numpy(), compute_uv=False).sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + xc.square().sum() + yc.square().sum()
    assert ours == pytest.approx(float(expected) - 2 * cross, rel=1e-10)


@pytest.mark.parametrize("n", [3, 50])
def test_a_set_is_at_distance_zero_from_itself(n: int) -> None:
    statistics = FeatureStatistics.of(features(n, 16, 7))
    assert frechet_distance(statistics, statistics) <= 1e-12 * float(
        statistics.covariance().trace()
    )


def test_constant_features_differ_by_their_means_alone() -> None:
    one, two = torch.zeros(4, 3), torch.full((5, 3), 2.0)
    assert frechet_distance(FeatureStatistics.of(one), FeatureStatistics.of(two)) == 12.0


def test_distance_is_symmetric_and_blind_to_order_rotation_and_common_shift() -> None:
    x, y = features(60, 8, 8), features(70, 8, 9, shift=1.0)
    rotation, _ = torch.linalg.qr(features(8, 8, 10))
    plain = frechet_distance(FeatureStatistics.of(x), FeatureStatistics.of(y))
    for a, b in [(y, x), (x.flip(0), y), (x @ rotation, y @ rotation), (x + 40.0, y + 40.0)]:
        moved = frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
        assert moved == pytest.approx(plain, rel=1e-9)


def test_one_image_is_refused() -> None:
    with pytest.raises(DataError, match="at least 2 images, found 1"):
        frechet_distance(
            FeatureStatistics.of(torch.ones(1, 3)), FeatureStatistics.of(torch.ones(4, 3))
        )


def test_different_numbers_of_features_are_refused() -> None:
    with pytest.raises(DataError, match="3 features cannot be compared with 4"):
        frechet_distance(
            FeatureStatistics.of(torch.ones(5, 3)), FeatureStatistics.of(torch.ones(5, 4))
        )


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="NaN or infinite"):
        FeatureStatistics.of(torch.tensor([[0.0, float("nan")], [1.0, 2.0]]))
