"""What must hold on every device: on the CPU always, on CUDA where there is one (`pytest -m gpu`)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from support import process_children as children
from support import tiny
from support.processes_launcher import launch

from dpdm_cli.compute.device import set_precision, to_device
from dpdm_cli.diffusion.generation import SamplerSettings, generate
from dpdm_cli.privacy.audit.checks import check_all
from dpdm_cli.privacy.audit.replay import in_precision, release_of, step_on
from dpdm_cli.privacy.gradients.per_example import PerExampleGradients
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.training.config.settings import TrainSettings
from dpdm_cli.training.probe_records import ProbeRecords
from dpdm_cli.training.trainer import Trainer

RECORDS = 12
ROUNDING = {"float32": 2e-5, "tf32": 2e-2, "bf16": 0.15}
"""Relative error that a float32 gradient may have whose products are rounded so."""


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.mark.parametrize("precision", ROUNDING)
@pytest.mark.parametrize("copies", [1, 4])
def test_per_example_gradients_are_those_of_a_loop_in_float64(
    precision: str, copies: int, device: torch.device
) -> None:
    if precision == "tf32" and device.type != "cuda":
        precision = "float32"
    data = tiny.images(RECORDS)
    exact = tiny.denoiser(dtype=torch.float64)
    pixels = data.images.double() / 127.5 - 1
    losses = tiny.losses_of(exact, pixels, data.labels, copies)
    expected = tiny.gradients_one_by_one(exact, losses, torch.arange(RECORDS))
    model = tiny.denoiser()
    to_device(model, device)
    set_precision("auto" if precision == "bf16" else precision, device)
    rounded = tiny.losses_of(model, pixels.float().to(device), data.labels.to(device), copies)
    per_example = PerExampleGradients(model.network)

    everyone = torch.arange(RECORDS, device=device)
    found = per_example(in_precision(rounded, device, precision == "bf16"), everyone)
    assert found.dtype == torch.float32
    for row in range(RECORDS):
        per_example.assign(found[row])
        flat = torch.cat([p.grad.flatten() for p in model.network.parameters()]).cpu().double()
        assert tiny.relative_error(flat, expected[row]) < ROUNDING[precision]


@pytest.fixture(params=["float32", "auto"])
def precision(request: pytest.FixtureRequest, device: torch.device) -> Iterator[str]:
    """Products in full, or rounded as a run does it unless it is told otherwise."""
    set_precision(request.param, device)
    yield request.param
    set_precision("float32", device)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.usefixtures("precision")
def test_the_step_passes_its_audit(workers: int, device: torch.device) -> None:
    denoiser, config = tiny.denoiser(), tiny.config()
    to_device(denoiser, device)
    plan = tiny.plan(sigma=0.7, warm_start="moments", warm_sigma=2.0)
    probes = ProbeRecords(denoiser, config, plan.noise_multiplicity, RECORDS)
    findings = check_all(
        denoiser.network,
        probes.losses,
        plan,
        records=probes.count,
        suspects=probes.suspects,
        micro_batch=5,
        workers=workers if device.type == "cpu" else 1,
    )
    assert [finding for finding in findings if not finding.passed] == []


@pytest.mark.usefixtures("precision")
def test_a_sum_of_many_equal_gradients_keeps_the_sensitivity(device: torch.device) -> None:
    # Enough that a sum in bf16 would be off by more than half of C (privacy rules: sums are float32 or wider).
    plan = dataclasses.replace(tiny.plan(), sigma=1e-9)
    # Of norm 1 and a little, and no number of TF32's.
    rows = torch.full((2048, 4096), (1 + 2**-11 + 2**-20) / 64, device=device)
    step, losses = step_on(rows, Ledger(plan), micro_batch=len(rows))
    everyone = torch.arange(len(rows))
    whole, rest = (release_of(step, losses, some) for some in (everyone, everyone[1:]))
    assert float((whole - rest).norm()) == pytest.approx(1.0, abs=1e-4)


def test_a_run_goes_on_where_it_stopped(device: torch.device) -> None:
    data = tiny.images(64)
    settings = TrainSettings(batch_size=16, noise_multiplicity=2)

    def trainer(ledger: Ledger) -> Trainer:
        return Trainer(
            tiny.config(),
            settings,
            data,
            steps=5,
            sample_rate=0.25,
            ledger=ledger,
            device=device,
        )

    ledger = Ledger(tiny.plan())
    first = trainer(ledger)
    first.check()
    for _ in range(3):
        first.step()
    state = {name: tensor.detach().cpu().clone() for name, tensor in first.state().items()}
    second = trainer(Ledger.from_json(ledger.plan, ledger.to_json()))
    second.restore(state, 3)
    assert second.digest() == first.digest()
    for _ in range(2):
        second.step()
    assert second.ledger is not None
    assert second.ledger.steps == 5
    assert all(tensor.isfinite().all() for tensor in second.state().values())


@pytest.mark.parametrize("name", ["ddim", "stochastic-ddim", "heun"])
def test_images_are_those_of_the_cpu_to_rounding(name: str, device: torch.device) -> None:
    indices, labels = torch.arange(8), torch.arange(8) % 3
    settings = SamplerSettings(sampler=name, steps=6)
    model = tiny.denoiser()
    expected = generate(model, indices, labels, (1, 8, 8), settings, seed=1, null_label=3)
    moved = copy.deepcopy(model)
    to_device(moved, device)
    set_precision("float32", device)
    found = generate(
        moved, indices.to(device), labels.to(device), (1, 8, 8), settings, seed=1, null_label=3
    )
    assert int((found.cpu().int() - expected.int()).abs().max()) <= 1


@pytest.mark.slow
def test_one_process_of_torchrun_is_one_process(device: torch.device) -> None:
    """On CUDA this goes through NCCL."""
    ((alone, _),) = launch(1, children.trained_on_given_draws, "moments", True)
    ((state, _),) = launch(1, children.trained_on_given_draws, "moments", True, device.type)
    for name, tensor in state.items():
        if name != "prior/directions":
            assert tiny.relative_error(tensor.cpu().double(), alone[name].double()) < 1e-2, name
