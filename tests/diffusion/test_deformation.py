from __future__ import annotations

import pytest
import torch

from dpdm_cli.diffusion import deformation
from dpdm_cli.diffusion.deformation import deform
from dpdm_cli.diffusion.keyed_noise import KeyedNoise

INDICES = torch.arange(200)


def noise(indices: torch.Tensor = INDICES, seed: int = 0) -> KeyedNoise:
    return KeyedNoise((seed,), indices)


def blobs(count: int, side: int = 28) -> torch.Tensor:
    """One Gaussian spot in the middle of each image."""
    places = (torch.arange(side) - (side - 1) / 2) / (side / 7)
    spot = torch.exp(-0.5 * (places[:, None] ** 2 + places[None] ** 2))
    return (2 * spot - 1).expand(count, 1, side, side)


def test_an_image_is_deformed_by_its_own_noise_alone() -> None:
    images = torch.rand(200, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    whole = deform(images, 1.0, noise())
    picked = torch.tensor([7, 150, 31])
    torch.testing.assert_close(deform(images[picked], 1.0, noise(picked)), whole[picked])
    assert whole.shape == images.shape
    assert (deform(images, 1.0, noise(seed=1)) - whole).abs().amax(dim=(1, 2, 3)).min() > 0.01


def test_strength_0_changes_nothing_and_more_changes_more() -> None:
    images = blobs(200)
    torch.testing.assert_close(deform(images, 0.0, noise()), images)
    moved = [
        (deform(images, strength, noise()) - images).abs().mean() for strength in (0.2, 0.5, 1.0)
    ]
    assert moved[0] > 0.001
    assert moved[1] > 2 * moved[0]
    assert moved[2] > 1.5 * moved[1]


def test_what_is_the_same_everywhere_stays_so() -> None:
    flat = torch.full((200, 3, 9, 9), 0.25)
    torch.testing.assert_close(deform(flat, 1.0, noise()), flat)


def test_amplitudes_spread_over_all_strengths_up_to_the_one_given() -> None:
    """With shifts alone the middle of a spot tells the amplitude."""
    images = blobs(200)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TURN", "STRETCH", "SHEAR", "BEND"):
            patch.setattr(deformation, name, 0.0)
        light = (deform(images, 1.0, noise())[:, 0] + 1) / 2
    places = torch.arange(28) - 13.5
    middles = torch.stack(
        [(light.sum(dim) * places).sum(1) / light.sum(dim=(1, 2)) for dim in (1, 2)], dim=1
    )
    furthest = middles.abs().amax(dim=1) / (deformation.SHIFT * 28)
    assert 0.7 < furthest.max() < 1.05
    assert furthest.min() < 0.1
    # The larger of two uniform shifts, 2/3 on average, times an amplitude that is uniform too.
    assert furthest.mean() == pytest.approx(1 / 3, abs=0.06)


@pytest.mark.parametrize("shape", [(28, 28), (64, 32)])
def test_bends_have_the_stated_width_and_standard_deviation(shape: tuple[int, int]) -> None:
    maps = deformation._smooth(noise().normal(2, *shape))
    height, width = shape
    inside = maps[:, :, height // 3 : -height // 3, width // 3 : -width // 3]
    assert inside.std() == pytest.approx(1, abs=0.1)
    # White noise behind a Gaussian filter of width s has the correlation exp(-d^2 / 4 s^2) over a distance d.
    for dim, side in ((2, height), (3, width)):
        far = round(deformation.SMOOTHNESS * side)
        apart = inside.narrow(dim, far, inside.shape[dim] - far)
        near = inside.narrow(dim, 0, inside.shape[dim] - far)
        expected = torch.tensor(far / (deformation.SMOOTHNESS * side)) ** 2 / 4
        assert (apart * near).mean() / inside.var() == pytest.approx(
            float(torch.exp(-expected)), abs=0.12
        )
