"""Per-example gradients against a plain loop over examples, and against Opacus' functorch mode."""

from __future__ import annotations

import pytest
import torch
from support import tiny
from torch import Tensor, nn

from dpdm_cli.compute.threads import parallel_map
from dpdm_cli.diffusion.denoiser import PARAMETERISATIONS
from dpdm_cli.privacy.gradients import convolution
from dpdm_cli.privacy.gradients.per_example import PerExampleGradients


def per_parameter_errors(network: nn.Module, found: Tensor, expected: Tensor) -> dict[str, float]:
    sizes = [p.numel() for p in network.parameters()]
    names = [name for name, _ in network.named_parameters()]
    pairs = zip(names, found.split(sizes, 1), expected.split(sizes, 1), strict=True)
    return {name: tiny.relative_error(f, e) for name, f, e in pairs if e.norm() > 0}


@pytest.mark.parametrize("kind", PARAMETERISATIONS)
@pytest.mark.parametrize("copies", [1, 3, 6])
def test_equal_a_float64_loop_over_examples_in_every_tensor_for_every_denoiser(
    kind: str, copies: int
) -> None:
    model = tiny.denoiser(kind, torch.float64)
    pixels = torch.rand(5, 1, 8, 8, dtype=torch.float64) * 2 - 1
    labels = torch.tensor([0, 1, 2, 1, 0])
    losses = tiny.losses_of(model, pixels, labels, copies, dropout=0.5)
    found = PerExampleGradients(model.network)(losses, torch.arange(5))
    expected = tiny.gradients_one_by_one(model, losses, torch.arange(5))
    errors = per_parameter_errors(model.network, found, expected)
    assert max(errors.values()) < 1e-10, errors


@pytest.mark.parametrize(
    "changes", [{"patch": 2}, {"classes": 0}, {"image_channels": 3, "multipliers": (1, 1, 2)}]
)
def test_equal_the_loop_for_other_shapes_of_the_network(changes: dict[str, object]) -> None:
    model = tiny.denoiser(dtype=torch.float64, **changes)
    pixels = torch.rand(3, model.network.config.image_channels, 8, 8, dtype=torch.float64) * 2 - 1
    labels = torch.tensor([0, 1, 2]) if model.network.config.classes else None
    losses = tiny.losses_of(model, pixels, labels, 2)
    found = PerExampleGradients(model.network)(losses, torch.arange(3))
    expected = tiny.gradients_one_by_one(model, losses, torch.arange(3))
    assert tiny.relative_error(found, expected) < 1e-10


def test_do_not_depend_on_the_other_examples_or_their_order() -> None:
    model = tiny.denoiser(dtype=torch.float64)
    data = tiny.images(6)
    pixels = data.images.double() / 127.5 - 1
    losses = tiny.losses_of(model, pixels, data.labels, 2)
    per_example = PerExampleGradients(model.network)
    order = torch.tensor([4, 0, 5, 2])
    mixed = per_example(losses, order)
    for row, record in enumerate(order):
        alone = per_example(losses, record[None])[0]
        assert tiny.relative_error(mixed[row], alone) < 1e-10


@pytest.mark.parametrize("copies", [1, 4, 5])
def test_equal_the_loop_when_the_network_lies_in_channels_last_order(copies: int) -> None:
    model = tiny.denoiser(dtype=torch.float64)
    pixels = torch.rand(3, 1, 8, 8, dtype=torch.float64) * 2 - 1
    losses = tiny.losses_of(model, pixels, torch.tensor([0, 1, 2]), copies)
    expected = tiny.gradients_one_by_one(model, losses, torch.arange(3))
    model.network.to(memory_format=torch.channels_last)
    per_example = PerExampleGradients(model.network)
    found = per_example(losses, torch.arange(3))
    for row in range(3):
        per_example.assign(found[row])
        laid_out = torch.cat([p.grad.flatten() for p in model.network.parameters()])
        assert tiny.relative_error(laid_out, expected[row]) < 1e-10


def test_nothing_of_what_the_memory_held_before_stays_in_it() -> None:
    model = tiny.denoiser(dtype=torch.float64)
    data = tiny.images(4)
    losses = tiny.losses_of(model, data.images.double() / 127.5 - 1, data.labels, 2)
    model.network.to(memory_format=torch.channels_last)
    model.network.unused = nn.Linear(2, 3).double()
    per_example = PerExampleGradients(model.network)
    fresh = per_example(losses, torch.arange(4))
    memory = torch.full((7, per_example.size), torch.nan, dtype=torch.float64)
    for part in (memory, memory[3:]):
        found = per_example(losses, torch.arange(4), out=part)
        assert found.data_ptr() == part.data_ptr()
        assert tiny.relative_error(found, fresh) < 1e-10
        memory.fill_(torch.nan)


def test_threads_at_work_on_one_network_get_each_its_own_gradients() -> None:
    model = tiny.denoiser(dtype=torch.float64)
    data = tiny.images(24)
    losses = tiny.losses_of(model, data.images.double() / 127.5 - 1, data.labels, 2)
    per_example = PerExampleGradients(model.network)
    parts = torch.arange(24).split(3)
    one_by_one = [per_example(losses, part) for part in parts]
    at_once = parallel_map(lambda part: per_example(losses, part), parts, workers=4)
    for found, expected in zip(at_once, one_by_one, strict=True):
        assert tiny.relative_error(found, expected) < 1e-10


def test_agree_with_opacus_in_its_functorch_mode() -> None:
    from opacus.grad_sample import GradSampleModule

    model = tiny.denoiser(dtype=torch.float64)
    pixels = torch.rand(4, 1, 8, 8, dtype=torch.float64) * 2 - 1
    sigma, labels = torch.full((4,), 0.7, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    noisy = pixels + 0.7 * torch.randn(pixels.shape, dtype=torch.float64)

    everyone = torch.arange(4)

    def losses(_: Tensor) -> Tensor:
        return (model(noisy, sigma, labels) - pixels).square().flatten(1).mean(1)

    found = PerExampleGradients(model.network)(losses, everyone)
    wrapped = GradSampleModule(model.network, loss_reduction="sum", force_functorch=True)
    model.network = wrapped
    losses(everyone).sum().backward()
    expected = torch.cat([p.grad_sample.flatten(1) for p in wrapped.parameters()], 1)
    assert tiny.relative_error(found, expected) < 1e-10


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernel_name", convolution.KERNELS)
@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "kernel"),
    [(1, 1, 1, 3), (2, 0, 1, 3), (1, 0, 1, 1), (2, 1, 1, 2), (1, 2, 2, 3)],
)
def test_every_convolution_kernel_agrees_with_autograd(
    kernel_name: str,
    stride: int,
    padding: int,
    dilation: int,
    kernel: int,
    layout: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(convolution._PATCH_BYTES, True, 5000)  # patches in more pieces than one
    layer = nn.Conv2d(3, 4, kernel, stride, padding, dilation).double().to(memory_format=layout)
    x = torch.randn(6, 3, 7, 7, dtype=torch.float64)
    y = layer(x)
    g = torch.randn_like(y)
    wide = torch.zeros(3, 1000, dtype=torch.float64)  # the columns of one layer among others
    found = wide.as_strided((3, *layer.weight.shape), (1000, *layer.weight.stride()), 17)
    with torch.no_grad():
        convolution.KERNELS[kernel_name](layer, g, x, layer.weight, found)
    for example in range(3):
        rows = slice(2 * example, 2 * example + 2)
        (expected,) = torch.autograd.grad(layer(x[rows]), layer.weight, g[rows])
        assert tiny.relative_error(found[example], expected) < 1e-12


def test_right_where_the_input_of_a_convolution_is_not_contiguous() -> None:
    layer = nn.Conv2d(4, 2, 3, padding=1).double()
    per_example = PerExampleGradients(layer)
    for layout in (torch.channels_last, torch.contiguous_format):
        x = torch.randn(4, 4, 6, 6, dtype=torch.float64).transpose(2, 3).to(memory_format=layout)
        found = per_example(
            lambda indices, x=x: layer(x[indices]).square().flatten(1).sum(1), torch.arange(4)
        )
        for example in range(4):
            loss = layer(x[example : example + 1]).square().sum()
            expected = torch.autograd.grad(loss, list(layer.parameters()))
            flat = torch.cat([e.flatten() for e in expected])
            assert tiny.relative_error(found[example], flat) < 1e-12


def test_a_layer_called_twice_adds_up_and_one_not_called_is_zero() -> None:
    network = nn.ModuleDict({"used": nn.Linear(3, 3), "idle": nn.Linear(2, 2)}).double()
    per_example = PerExampleGradients(network)
    x = torch.randn(4, 3, dtype=torch.float64)

    def losses(indices: Tensor) -> Tensor:
        return network["used"](network["used"](x[indices]).tanh()).square().sum(1)

    everyone = torch.arange(4)
    found = per_example(losses, everyone)
    for example in range(4):
        expected = torch.autograd.grad(
            losses(everyone)[example], list(network["used"].parameters())
        )
        flat = torch.cat([e.flatten() for e in expected])
        assert tiny.relative_error(found[example, :12], flat) < 1e-12
    assert not found[:, 12:].any()


def test_the_network_is_left_as_it_was() -> None:
    model = tiny.denoiser()
    x, sigma, y = torch.randn(2, 1, 8, 8), torch.ones(2), torch.tensor([0, 1])
    before = model(x, sigma, y)
    PerExampleGradients(model.network)(
        lambda indices: model(x[indices], sigma, y).flatten(1).sum(1), torch.arange(2)
    )
    assert all(parameter.grad is None for parameter in model.network.parameters())
    assert torch.equal(model(x, sigma, y), before)


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)),
        nn.Sequential(nn.BatchNorm2d(2, affine=False)),
        nn.Sequential(nn.InstanceNorm2d(2, affine=True)),
        nn.Sequential(nn.PReLU()),
        nn.Sequential(nn.Conv2d(2, 2, 3, groups=2)),
        nn.Sequential(nn.Conv2d(2, 2, 3, padding="same")),
        nn.Sequential(nn.Embedding(3, 2, padding_idx=0)),
    ],
)
def test_layers_that_would_escape_the_clip_are_refused(network: nn.Module) -> None:
    with pytest.raises(TypeError, match=r"0|1"):
        PerExampleGradients(network)


def test_a_parameter_shared_by_two_layers_is_refused() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    with pytest.raises(TypeError, match="shared"):
        PerExampleGradients(nn.Sequential(first, second))


def test_losses_of_another_shape_are_refused() -> None:
    layer = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="one loss"):
        PerExampleGradients(layer)(lambda _: layer(torch.randn(4, 2)).sum(), torch.arange(4))
