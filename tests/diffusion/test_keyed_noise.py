from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dpdm_cli.diffusion import keyed_noise
from dpdm_cli.diffusion.keyed_noise import KeyedNoise


def keys(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def ks_distance(values: Tensor, cumulative: Tensor) -> float:
    """Kolmogorov-Smirnov distance times sqrt(n); above 1.95 has probability 0.001."""
    n = len(values)
    steps = torch.arange(1, n + 1, dtype=torch.float64) / n
    sorted_cumulative = cumulative.double().sort().values
    above = (steps - sorted_cumulative).max()
    below = (sorted_cumulative - steps + 1 / n).max()
    return (torch.maximum(above, below) * math.sqrt(n)).item()


def normal_cumulative(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x.double() / math.sqrt(2)))


def test_an_image_gets_the_same_draws_in_any_batch_at_any_place() -> None:
    together = KeyedNoise((7, 3), torch.arange(50))
    alone = KeyedNoise((7, 3), keys(31))
    shuffled = KeyedNoise((7, 3), keys(12, 49, 31, 0))
    for _ in range(3):
        expected = together.normal(1, 5, 5)[31]
        assert torch.equal(alone.normal(1, 5, 5)[0], expected)
        assert torch.equal(shuffled.normal(1, 5, 5)[2], expected)


def test_draws_differ_between_seeds_keys_and_turns() -> None:
    rows = [
        KeyedNoise(seed, keys(0, 1)).uniform(4) for seed in ((0,), (1,), (0, 0), (0, 1), (1, 0))
    ]
    noise = KeyedNoise((0,), keys(0, 1))
    noise.uniform(4)
    rows.append(noise.uniform(4))
    flat = torch.cat(rows)
    assert len({tuple(row.tolist()) for row in flat}) == len(flat)


def test_repeating_a_seed_repeats_its_draws() -> None:
    first, second = KeyedNoise((5,), keys(8, 9)), KeyedNoise((5,), keys(8, 9))
    assert torch.equal(first.uniform(10), second.uniform(10))
    assert torch.equal(first.normal(3, 3), second.normal(3, 3))


def test_uniform_draws_are_uniform_within_and_across_images() -> None:
    within = KeyedNoise((1,), keys(4)).uniform(100_000)[0]
    across = KeyedNoise((1,), torch.arange(100_000)).uniform(1)[:, 0]
    assert ks_distance(within, within) < 1.95
    assert ks_distance(across, across) < 1.95


def test_normal_draws_are_normal_within_and_across_images() -> None:
    within = KeyedNoise((2,), keys(4)).normal(100_001)[0]
    across = KeyedNoise((2,), torch.arange(100_000)).normal(1)[:, 0]
    for values in (within, across):
        assert ks_distance(values, normal_cumulative(values)) < 1.95
        assert values.double().pow(4).mean().item() == pytest.approx(3.0, abs=0.15)


def test_neighbouring_images_pixels_turns_and_seeds_are_uncorrelated() -> None:
    noise = KeyedNoise((3,), torch.arange(1001))
    first, second = noise.normal(100), noise.normal(100)
    other_seed = KeyedNoise((4,), torch.arange(1001)).normal(100)
    pairs = [
        (first[1:], first[:-1]),
        (first[:, 1:], first[:, :-1]),
        (first[:, :50], first[:, 50:]),  # the two halves of the Box-Muller transform
        (first, second),
        (first, other_seed),
    ]
    for a, b in pairs:
        for x, y in ((a, b), (a.square() - 1, b.square() - 1)):
            correlation = (x * y).mean() / (x.std() * y.std())
            assert abs(correlation.item()) < 4 / math.sqrt(x.numel())


@pytest.mark.parametrize("word", [0, -1], ids=["all bits 0", "all bits 1"])
def test_no_draw_is_ever_0_or_1_and_every_normal_is_finite(
    word: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = KeyedNoise((0,), keys(0, 1))
    monkeypatch.setattr(keyed_noise, "_mix", lambda z: torch.full_like(z, word))
    uniform = noise.uniform(6)
    assert ((uniform > 0) & (uniform < 1)).all()
    assert noise.normal(6).isfinite().all()


def test_shapes_are_those_asked_for_odd_counts_and_empty_batches_included() -> None:
    noise = KeyedNoise((0,), torch.arange(4))
    assert noise.uniform(3).shape == (4, 3)
    assert noise.normal(3, 5, 7).shape == (4, 3, 5, 7)
    nobody = KeyedNoise((0,), torch.arange(0))
    assert nobody.normal(1, 2, 2).shape == (0, 1, 2, 2)


def test_any_integers_are_seeds() -> None:
    large = KeyedNoise((2**63 - 1, 2**80, -5), keys(1)).uniform(5)
    assert not torch.equal(large, KeyedNoise((0, 0, 0), keys(1)).uniform(5))
