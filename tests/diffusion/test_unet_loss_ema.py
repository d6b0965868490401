"""The network's size, the loss's meaning, the average's warm-up."""

from __future__ import annotations

import math

import pytest
import torch
from support import tiny

from dpdm_cli.diffusion.ema import EMA
from dpdm_cli.diffusion.keyed_noise import KeyedNoise
from dpdm_cli.diffusion.loss import denoising_losses
from dpdm_cli.diffusion.unet import Attention, UNet, UNetConfig
from dpdm_cli.training.config.settings import preset_settings


@pytest.mark.parametrize(
    ("data", "side", "channels", "classes", "parameters"),
    [
        ("mnist", 28, 1, 10, 1_753_345),
        ("fashion-mnist", 28, 1, 10, 1_753_345),
        ("celeba", 32, 3, 0, 1_804_451),
        ("celeba64", 64, 3, 0, 1_999_907),
        ("cifar10", 32, 3, 10, 1_754_499),
        ("imagenet32", 32, 3, 1000, 1_836_483),
    ],
)
def test_the_paper_preset_has_the_papers_number_of_parameters(
    data: str, side: int, channels: int, classes: int, parameters: int
) -> None:
    settings = preset_settings("paper", data, 10.0, settings_for=data)
    assert settings.attention is not None
    config = UNetConfig(
        image_size=side,
        image_channels=channels,
        classes=classes,
        channels=settings.width,
        multipliers=settings.multipliers,
        blocks=settings.blocks,
        attention=settings.attention,
        patch=settings.patch,
        embedding=settings.embedding,
    )
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet(config).parameters()) == parameters


def test_a_row_depends_on_that_row_alone() -> None:
    network = tiny.denoiser(dtype=torch.float64).network
    x, c_noise, y = (
        torch.randn(5, 1, 8, 8, dtype=torch.float64),
        torch.randn(5, dtype=torch.float64),
        torch.arange(5) % 4,
    )
    together = network(x, c_noise, y)
    for row in range(5):
        alone = network(x[row : row + 1], c_noise[row : row + 1], y[row : row + 1])
        assert torch.allclose(together[row : row + 1], alone, atol=1e-12)


def test_a_fresh_network_outputs_almost_nothing_so_that_training_starts_at_the_skip_connection() -> (
    None
):
    output = UNet(tiny.config())(torch.randn(4, 1, 8, 8), torch.zeros(4))
    assert output.abs().max() < 1e-3


def test_queries_keys_and_values_start_as_three_square_layers_of_scale_a_tenth() -> None:
    """Variance 0.1 / C each, uniform: DDPM++'s, whose attention has three layers of C x C."""
    channels = 64
    torch.manual_seed(0)
    attention = Attention(channels)
    deviation = math.sqrt(0.1 / channels)
    assert deviation == pytest.approx(0.0395, abs=1e-4)
    for block in attention.qkv.weight.detach().flatten(1).split(channels):
        assert block.shape == (channels, channels)
        # Four standard errors: the variance of a uniform number's square is 4/5 of its squared mean.
        assert block.var().item() == pytest.approx(deviation**2, rel=4 * math.sqrt(0.8) / channels)
        assert block.abs().max().item() == pytest.approx(deviation * math.sqrt(3), rel=0.01)
    assert attention.qkv.bias is not None
    assert not attention.qkv.bias.any()


def test_patches_and_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 4"):
        tiny.config(patch=2, image_size=10)


def test_the_loss_is_the_mean_over_copies_of_the_weighted_squared_error() -> None:
    model = tiny.denoiser(dtype=torch.float64)
    data = tiny.images(3)
    pixels = data.images.double() / 127.5 - 1
    copies, keys = 4, torch.arange(3)
    found = denoising_losses(model, pixels, data.labels, copies, KeyedNoise((5,), keys))

    noise = KeyedNoise((5,), keys)
    uniform, normal, added = (
        noise.uniform(copies),
        noise.normal(copies),
        noise.normal(copies, 1, 8, 8),
    )
    sigma = model.parameterisation.noise_levels(uniform, normal)
    for image in range(3):
        expected = 0.0
        for copy in range(copies):
            s = sigma[image, copy].double()
            noisy = pixels[image] + s * added[image, copy].double()
            denoised = model(noisy[None], s[None], data.labels[image][None])[0]
            expected += (
                model.parameterisation.weight(s)
                * (denoised - pixels[image]).square().mean()
                / copies
            )
        assert found[image].item() == pytest.approx(
            float(torch.as_tensor(expected).detach()), rel=1e-9
        )


def test_an_images_loss_is_the_same_in_any_batch() -> None:
    model = tiny.denoiser(dtype=torch.float64)
    data = tiny.images(6)
    losses = tiny.losses_of(model, data.images.double() / 127.5 - 1, data.labels, 3, dropout=0.5)
    together = losses(torch.tensor([5, 1, 3]))
    alone = torch.cat([losses(torch.tensor([i])) for i in (5, 1, 3)])
    assert torch.allclose(together, alone, rtol=1e-12)


def test_label_dropout_is_drawn_once_an_image_at_its_rate() -> None:
    seen = []

    def spy(x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(labels.view(-1, 4))
        return x

    spy.parameterisation = tiny.denoiser().parameterisation  # type: ignore[attr-defined]
    count = 4_000
    labels = torch.ones(count, dtype=torch.int64)
    denoising_losses(
        spy,
        torch.zeros(count, 1, 2, 2),
        labels,
        4,
        KeyedNoise((0,), torch.arange(count)),
        label_dropout=0.1,
        null_label=3,
    )  # type: ignore[arg-type]
    (rows,) = seen
    assert (rows == rows[:, :1]).all()
    assert (rows[:, 0] == 3).double().mean().item() == pytest.approx(0.1, abs=0.02)


def test_the_average_warms_up_from_two_elevenths_and_then_forgets_at_its_decay() -> None:
    """From a zero average and weights of one, each update shrinks the distance to one by its decay."""
    network = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    torch.nn.init.zeros_(network.weight)
    average = EMA(network, 0.5)
    torch.nn.init.ones_(network.weight)
    decays, distance = [], 1.0
    for update in range(10):
        average.update(network, update)
        left = 1 - average.averaged.weight.item()
        decays.append(left / distance)
        distance = left
    expected = [2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5, 0.5]
    assert decays == pytest.approx(expected, rel=1e-6)
    assert not average.averaged.weight.requires_grad
