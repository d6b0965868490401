from __future__ import annotations

import pytest
import torch

from dpdm_cli.evaluation.features.kept_features import KeptFeatures


def features(n: int) -> torch.Tensor:
    """Row i holds i and -i."""
    return torch.stack([torch.arange(n), -torch.arange(n)], dim=1).float()


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_the_chosen_are_kept_whatever_the_batches(batch: int) -> None:
    kept, x = KeptFeatures(100, most=20), features(100)
    for indices in torch.arange(100).split(batch):
        kept.take(indices, x[indices])
    assert len(kept.chosen) == 20
    torch.testing.assert_close(kept.rows().sort(0).values[:, 0], kept.chosen.float())
    torch.testing.assert_close(kept.rows()[:, 1], -kept.rows()[:, 0])


def test_going_over_the_chosen_alone_keeps_the_same() -> None:
    x = features(100)
    whole, alone = KeptFeatures(100, most=20), KeptFeatures(100, most=20)
    whole.take(torch.arange(100), x)
    alone.take(alone.chosen, x[alone.chosen])
    assert torch.equal(whole.rows(), alone.rows())


def test_a_small_set_is_kept_whole() -> None:
    kept = KeptFeatures(5, most=20)
    assert kept.chosen.tolist() == [0, 1, 2, 3, 4]
    kept.take(torch.arange(5), features(5))
    assert sorted(kept.rows()[:, 0].tolist()) == [0, 1, 2, 3, 4]


def test_every_image_is_as_likely_kept_and_as_likely_first() -> None:
    seeds, x = 2000, features(10)
    kept, first = torch.zeros(2, 10)
    for seed in range(seeds):
        choice = KeptFeatures(10, most=3, seed=seed)
        choice.take(torch.arange(10), x)
        kept[choice.chosen] += 1
        first[int(choice.rows()[0, 0])] += 1
    for count, rate in ((kept, 0.3), (first, 0.1)):
        error = (seeds * rate * (1 - rate)) ** 0.5
        assert (count - seeds * rate).abs().max() < 4 * error


def test_the_choice_follows_the_seed_and_nothing_else() -> None:
    before = torch.get_rng_state()
    first, again, other = (KeptFeatures(100, most=20, seed=seed).chosen for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
