"""From images to the prior of a warm start, and a run that begins with one."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch
from support.trained import run
from torch import Tensor

from dpdm_cli.checkpoint import load_model, read_tensors
from dpdm_cli.data import ImageSet
from dpdm_cli.errors import InterruptedRunError, PrivacyError
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.publishing.verifying import verify
from dpdm_cli.training.folder.run_folder import RunFolder
from dpdm_cli.training.trainer import Trainer
from dpdm_cli.training.warm_start import covariances_from, learn_prior, new_prior

pytestmark = pytest.mark.slow

SIDE = 8


def two_kinds(count: int = 4000, classes: int = 2, labelled: bool = True) -> ImageSet:
    """Images of horizontal and of vertical bars, of random strength."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    ramp = torch.linspace(-1, 1, SIDE)
    strength = torch.randn(count, 1, 1, generator=generator) * 0.3 + 0.5
    bars = torch.where(labels.view(-1, 1, 1) == 0, ramp[:, None], ramp[None, :]) * strength
    noise = torch.randn(count, SIDE, SIDE, generator=generator) * 0.1
    images = ((bars + noise).clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)[:, None]
    names = tuple(f"kind {c}" for c in range(classes))
    if not labelled:
        return ImageSet(name="bars", images=images, labels=None, classes=())
    return ImageSet(name="bars", images=images, labels=labels, classes=names)


def ledger_with(warm_start: str = "moments", warm_sigma: float = 1e-6) -> Ledger:
    return Ledger(
        PrivacyPlan(
            dataset_size=4000,
            expected_batch_size=40,
            steps=3,
            sigma=1.0,
            delta=1e-5,
            warm_start=warm_start,
            warm_sigma=warm_sigma,
        )
    )


def pixels(images: ImageSet) -> Tensor:
    return images.images.float() / 127.5 - 1


def test_without_noise_means_are_the_classes_means() -> None:
    images = two_kinds()
    prior = new_prior((1, SIDE, SIDE), 2)
    learn_prior(prior, images, ledger_with())
    assert images.labels is not None
    for label in range(2):
        mean = pixels(images)[images.labels == label].mean(0, keepdim=True)
        found = prior.low.images(prior.means[label : label + 1])
        torch.testing.assert_close(found, mean, atol=1e-3, rtol=0)
    overall = prior.low.images(prior.means[2:])
    torch.testing.assert_close(overall, pixels(images).mean(0, keepdim=True), atol=1e-3, rtol=0)


def test_without_noise_the_largest_variance_is_along_the_bars() -> None:
    images = two_kinds()
    prior = new_prior((1, SIDE, SIDE), 2)
    learn_prior(prior, images, ledger_with())
    assert images.labels is not None
    for label in range(2):
        members = prior.low.coefficients(pixels(images)[images.labels == label])
        values, vectors = torch.linalg.eigh(torch.cov(members.T))
        top = prior.directions[label][:, -1]
        assert abs(float(top @ vectors[:, -1])) > 0.99
        assert float(prior.variances[label][-1]) == pytest.approx(float(values[-1]), rel=0.35)


def test_a_denoiser_that_starts_from_moments_is_better_than_one_that_starts_from_means_or_nothing() -> (
    None
):
    images = two_kinds()
    x = pixels(images)[:500]
    assert images.labels is not None
    labels = images.labels[:500]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    errors = []
    for kind in ("moments", "means", None):
        prior = new_prior((1, SIDE, SIDE), 2)
        if kind:
            learn_prior(prior, images, ledger_with(kind, warm_sigma=3.0))
        denoised = prior.posterior_mean(x + 0.7 * noise, torch.full((500,), 0.7), labels)
        errors.append(float((denoised - x).square().mean()))
    assert errors[0] < 0.8 * errors[1] < 0.8 * errors[2]


@pytest.mark.parametrize("warm_start", ["means", "moments"])
@pytest.mark.parametrize("sigma", [0.5, 50.0, 1e5])
def test_noise_of_any_size_leaves_a_usable_prior(warm_start: str, sigma: float) -> None:
    images = two_kinds(count=60)
    for labelled in (True, False):
        some = images if labelled else two_kinds(count=60, labelled=False)
        prior = new_prior((1, SIDE, SIDE), len(some.classes))
        learn_prior(prior, some, ledger_with(warm_start, sigma))
        for name, tensor in prior.state_dict().items():
            assert tensor.isfinite().all(), name
        assert (prior.variances > 0).all()
        assert prior.elsewhere > 0
        k = prior.variances.shape[1]
        gram = prior.directions.transpose(1, 2) @ prior.directions
        torch.testing.assert_close(gram, torch.eye(k).expand_as(gram), atol=1e-4, rtol=0)


def test_a_class_without_images_is_no_trouble() -> None:
    images = two_kinds()
    three = dataclasses.replace(images, classes=("a", "b", "nobody"))
    prior = new_prior((1, SIDE, SIDE), 3)
    learn_prior(prior, three, ledger_with(warm_sigma=1.0))
    assert prior.means.abs().max() < 2 * SIDE
    assert all(tensor.isfinite().all() for tensor in prior.state_dict().values())


def test_covariances_survive_little_noise_and_are_dropped_under_much() -> None:
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(3, 12, 3, generator=generator).double()
    true = factors @ factors.transpose(1, 2)
    little = covariances_from(true, torch.full((3,), 1e-6).double())
    torch.testing.assert_close(little, true, atol=1e-3, rtol=1e-3)
    noise = torch.randn(3, 12, 12, generator=generator).double()
    noise = (
        noise + noise.transpose(1, 2)
    ) / 2  # as the release has it: sigma, and sigma / sqrt(2) off the diagonal
    much = covariances_from(0.001 * true + 10 * noise, torch.full((3,), 10.0).double())
    assert float(much.diagonal(dim1=1, dim2=2).sum(1).mean()) < 10 * 12
    assert (torch.linalg.eigvalsh(much) > -1e-9).all()


@pytest.mark.parametrize("warm_start", ["means", "moments"])
def test_a_run_begins_with_it_and_everything_after_knows(tmp_path: Path, warm_start: str) -> None:
    result = run(tmp_path / "run", steps=2, warm_start=warm_start)
    assert result.statement.plan.warm_start == warm_start
    releases = 2 + {"means": 1, "moments": 2}[warm_start]
    assert result.statement.ledger.releases == releases
    model = load_model(result.model)
    assert model.denoiser.prior is not None
    assert model.denoiser.prior.means.abs().sum() > 0
    (found,) = verify([tmp_path / "run"]).artefacts
    assert found.ledger.releases == releases


def test_a_resumed_run_keeps_its_prior_and_makes_no_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def interrupted(self: Trainer) -> None:
        step(self)
        if self.done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(InterruptedRunError):
        run(tmp_path / "run", steps=5, warm_start="moments")
    monkeypatch.setattr(Trainer, "step", step)
    saved, _ = read_tensors(tmp_path / "run" / "private" / "state.safetensors", "state")

    def forbidden(*_: object) -> None:
        raise AssertionError("the private images were summed again")

    monkeypatch.setattr("dpdm_cli.training.trainer.learn_prior", forbidden)
    result = run(tmp_path / "run", steps=5, warm_start="moments", resume=True)
    own = RunFolder(tmp_path / "run").load_state()[1].ledger.segments
    assert [count for _, count in own] == [4, 3]
    prior = load_model(result.model).denoiser.prior
    assert prior is not None
    torch.testing.assert_close(prior.means, saved["prior/means"])


def test_without_privacy_there_is_none(tmp_path: Path) -> None:
    result = run(tmp_path / "run", steps=1, private=False, warm_start="moments")
    assert load_model(result.model).denoiser.prior is None


def test_a_second_warm_start_is_refused() -> None:
    images, ledger = two_kinds(count=100), ledger_with(warm_sigma=5.0)
    prior = new_prior((1, SIDE, SIDE), 2)
    learn_prior(prior, images, ledger)
    with pytest.raises(PrivacyError):
        learn_prior(prior, images, ledger)
