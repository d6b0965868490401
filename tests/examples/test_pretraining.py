"""The images drawn by a program, and the training on them, in short."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "pretraining"))

import pretrain
from families import Family
from shapes import Dice, curve

from dpdm_cli.checkpoint import read_tensors
from dpdm_cli.training.config.public_start import shipped_start

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("size", [28, 32, 9])
def test_a_family_is_a_function_of_its_seed_and_its_images_are_images(size: int) -> None:
    for seed in range(40):
        images = Family(seed, size).draw(12)
        assert images.shape == (12, 1, size, size)
        assert images.min() >= -1
        assert images.max() <= 1
        assert images.isfinite().all()
        assert torch.equal(images, Family(seed, size).draw(12))
        assert not torch.equal(images, Family(seed + 1, size).draw(12))


def test_families_differ_more_than_the_images_of_one() -> None:
    drawn = torch.stack([Family(seed, 28).draw(40) for seed in range(60)]).flatten(2)
    means = drawn.mean(1)
    within = (drawn - means[:, None]).square().mean()
    between = (means - means.mean(0)).square().mean()
    assert within > 0.01  # and yet no family is one picture
    assert between > 0.3 * within


def test_a_spline_goes_through_its_control_points() -> None:
    control = Dice(0).normal(3, 5, 2)
    for closed, segments in ((False, 4), (True, 5)):
        along = curve(control, closed, 10 * segments + 1)
        torch.testing.assert_close(along[:, 0], control[:, 0], atol=1e-5, rtol=0)
        nearest = torch.cdist(control, along).amin(2)
        assert nearest.max() < 0.2 * torch.cdist(control, control).amax()


def test_training_goes_on_as_if_it_had_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FAMILIES", 3), ("IMAGES", 12), ("STEPS", 2), ("BATCH", 4)):
        monkeypatch.setattr(pretrain, name, value)

    def trained(stops: bool) -> dict[str, torch.Tensor]:
        training = pretrain.Pretraining(size=8, steps=5, seed=1)
        while training.done < 5:
            training.round()
            if stops:
                training.save_state(tmp_path / "state")
                training = pretrain.Pretraining(size=8, steps=5, seed=1)
                training.restore(tmp_path / "state")
        alone, network = training.unseen()
        assert 0 < network < 10 * alone
        training.save(tmp_path / "start")
        return read_tensors(tmp_path / "start", "start")[0]

    whole, stopped = trained(stops=False), trained(stops=True)
    for name, tensor in whole.items():
        torch.testing.assert_close(stopped[name], tensor)
    with pytest.raises(SystemExit, match="another training"):
        pretrain.Pretraining(size=8, steps=6, seed=1).restore(tmp_path / "state")


@pytest.mark.parametrize(("size", "patch"), [(28, 2), (64, 4)])
def test_it_makes_the_networks_that_ship(size: int, patch: int) -> None:
    _, facts = read_tensors(shipped_start(1, patch), "start")
    config = pretrain.Pretraining(size=size, steps=1, seed=0).config
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in facts["network"].items()} == (
        vars(config)
    )
