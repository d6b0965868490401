from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpdm_cli.diffusion.denoiser import EDM, Denoiser
from dpdm_cli.diffusion.gaussian_prior import GaussianPrior
from dpdm_cli.diffusion.generation import SamplerSettings, generate
from dpdm_cli.diffusion.samplers import SAMPLERS, Churn
from dpdm_cli.errors import DpdmError, UsageError

SHAPE = (3, 4, 4)


class Elementwise:
    """The denoiser of N(label / 10, 0.3^2) for each pixel on its own; label 3 is nobody's."""

    prior = None

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        self.rows += len(x)
        s2 = sigma.view(-1, 1, 1, 1) ** 2
        mean = 0.0 if labels is None else labels.view(-1, 1, 1, 1) / 10
        return mean + 0.09 / (0.09 + s2) * (x - mean)


class Constant:
    """All data are one image, whose pixels have the value of the label's entry."""

    prior = None

    def __init__(self, *values: float) -> None:
        self.values = torch.tensor(values)

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        return self.values[labels].view(-1, 1, 1, 1).expand_as(x)


def draw(denoiser: Any, indices: Tensor, labels: Tensor | None = None, **values: Any) -> Tensor:
    seed, null_label = values.pop("seed", 0), values.pop("null_label", 3)
    settings = SamplerSettings(**{"steps": 6, **values})
    return generate(denoiser, indices, labels, SHAPE, settings, seed=seed, null_label=null_label)


NOISY = [
    {"sampler": "heun", "deformation": 1.0},
    {"sampler": "ddim"},
    {"sampler": "stochastic-ddim"},
    {"sampler": "euler", "churn": Churn(amount=2)},
    {"sampler": "heun", "churn": Churn(amount=2)},
]


@pytest.mark.parametrize("values", NOISY, ids=str)
def test_image_i_depends_on_seed_index_and_label_alone(values: dict[str, Any]) -> None:
    labels = torch.arange(20) % 3
    whole = draw(Elementwise(), torch.arange(20), labels, **values)
    picked = torch.tensor([13, 2, 19])
    assert torch.equal(draw(Elementwise(), picked, labels[picked], **values), whole[picked])
    assert len({image.numpy().tobytes() for image in whole}) == 20
    assert not torch.equal(
        draw(Elementwise(), picked, labels[picked], seed=1, **values), whole[picked]
    )
    assert not torch.equal(draw(Elementwise(), picked, labels[picked] + 1, **values), whole[picked])


def test_images_are_bytes_rounded_to_the_nearest_level_and_clamped() -> None:
    values = (-1.0, 1.0, 0.0, -3.0, 3.0, 100.4 / 127.5 - 1, 100.6 / 127.5 - 1)
    labels = torch.arange(len(values))
    images = draw(Constant(*values), torch.arange(len(values)), labels)
    assert images.dtype == torch.uint8
    assert images.shape == (len(values), *SHAPE)
    assert images.flatten(1).unique(dim=1).flatten().tolist() == [0, 255, 128, 0, 255, 100, 101]


def test_guidance_moves_away_from_the_null_label() -> None:
    images = draw(
        Constant(0.2, 0.0, -0.1), torch.arange(2), torch.tensor([0, 1]), guidance=2.0, null_label=2
    )
    expected = [round((v + 1) * 127.5) for v in (3 * 0.2 - 2 * -0.1, 3 * 0.0 - 2 * -0.1)]
    assert images[:, 0, 0, 0].tolist() == expected


@pytest.mark.parametrize("guidance", [0.0, 0.5])
@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("steps", [1, 7])
def test_evaluations_are_those_the_network_sees(sampler: str, guidance: float, steps: int) -> None:
    denoiser = Elementwise()
    draw(
        denoiser, torch.arange(4), torch.zeros(4, dtype=torch.long),
        sampler=sampler, guidance=guidance, steps=steps,
    )  # fmt: skip
    settings = SamplerSettings(sampler=sampler, guidance=guidance, steps=steps)
    assert denoiser.rows == 4 * settings.evaluations


def test_an_unconditional_model_gets_no_labels() -> None:
    assert draw(Elementwise(), torch.arange(3)).shape == (3, *SHAPE)


def test_guidance_without_classes_or_without_a_null_label_is_refused() -> None:
    with pytest.raises(UsageError, match="no classes"):
        draw(Elementwise(), torch.arange(3), guidance=1.0)
    with pytest.raises(UsageError, match="no classes"):
        draw(Elementwise(), torch.arange(3), torch.zeros(3).long(), guidance=1.0, null_label=None)


def test_numbers_that_are_not_finite_are_no_image() -> None:
    with pytest.raises(DpdmError, match="not finite"):
        draw(Constant(math.nan), torch.arange(2), torch.zeros(2).long())


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"sampler": "dpm"}, "dpm"),
        ({"steps": 0}, "step"),
        ({"guidance": math.nan}, "guidance"),
        ({"guidance": -0.5}, "guidance"),
        ({"sampler": "ddim", "churn": Churn(amount=1)}, "churn"),
        ({"sampler": "stochastic-ddim", "churn": Churn(amount=1)}, "churn"),
        ({"t_min": 100.0}, "t_min"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"deformation": -0.1}, "deformation"),
        ({"deformation": math.nan}, "deformation"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(
    values: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        SamplerSettings(**values)


def test_settings_are_json_even_with_an_unlimited_range() -> None:
    settings = SamplerSettings(sampler="heun", churn=Churn(amount=5))
    values = json.loads(json.dumps(settings.to_dict(), allow_nan=False))
    assert values["churn"] == {"amount": 5, "lowest": 0.0, "highest": None, "scale": 1.0}
    assert SamplerSettings().to_dict().keys() == {
        "sampler", "steps", "guidance", "t_min", "t_max", "rho",
    }  # fmt: skip


class Nothing(nn.Module):
    """A network that has nothing to add."""

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        return torch.zeros_like(x)


def gaussian_classes() -> Denoiser:
    """The exact denoiser of two Gaussians, of 16 coefficients each; along the other axes there is little."""
    prior = GaussianPrior((1, 6, 6), 2, 16, 6)
    torch.manual_seed(0)
    prior.means.copy_(torch.randn(3, 16) / 4)
    prior.directions.copy_(torch.linalg.qr(torch.randn(3, 16, 6)).Q)
    prior.variances.copy_(torch.rand(3, 6) / 20 + 0.02)
    prior.elsewhere.fill_(0.001)
    return Denoiser(Nothing(), EDM(), prior)


@pytest.mark.parametrize("temperature", [1.0, 0.25, 2.0])
def test_from_the_prior_a_class_is_drawn_as_its_gaussian_at_that_temperature(
    temperature: float,
) -> None:
    denoiser = gaussian_classes()
    prior = denoiser.prior
    assert prior is not None
    settings = SamplerSettings(steps=30, t_max=3.0, from_prior=True, temperature=temperature)
    labels = torch.full((4000,), 1)
    drawn = generate(denoiser, torch.arange(4000), labels, (1, 6, 6), settings, seed=0)
    found = prior.low.coefficients(drawn / 127.5 - 1)
    torch.testing.assert_close(found.mean(0), prior.means[1], atol=0.02, rtol=0)
    along = (found - found.mean(0)) @ prior.directions[1]
    torch.testing.assert_close(
        along.var(0) / prior.variances[1], torch.full((6,), temperature), atol=0, rtol=0.1
    )
    before = gaussian_classes().prior
    assert before is not None
    assert before.variances.equal(prior.variances)  # the model's own stay as they are


@pytest.mark.parametrize("asked", [{"from_prior": True}, {"temperature": 2.0}])
def test_a_model_without_gaussians_cannot_begin_with_them(asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Gaussians"):
        draw(Elementwise(), torch.arange(3), **asked)


def test_a_start_and_a_temperature_are_written_where_there_is_one_and_come_back() -> None:
    settings = SamplerSettings.default(has_prior=True)
    assert settings.from_prior
    assert settings.evaluations < SamplerSettings.default(has_prior=False).evaluations / 2
    for given in (settings, replace(settings, temperature=1.5), SamplerSettings(temperature=2)):
        assert SamplerSettings.from_dict(json.loads(json.dumps(given.to_dict()))) == given
    stored = settings.to_dict()
    for foreign in ({"start": "Ada"}, {"start": True}, {"from_prior": True}, {"temperature": 1}):
        with pytest.raises((TypeError, ValueError)):
            SamplerSettings.from_dict({**stored, **foreign})
