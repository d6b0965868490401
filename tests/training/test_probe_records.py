"""The check before training: on weights off zero, which are afterwards what they were, and as the run computes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from support import tiny
from support.mutants import MUTANTS
from torch import Tensor, nn

from dpdm_cli.diffusion.denoiser import PARAMETERISATIONS, Denoiser
from dpdm_cli.diffusion.unet import UNet
from dpdm_cli.errors import PrivacyError
from dpdm_cli.privacy import step
from dpdm_cli.privacy.gradients.per_example import PerExampleGradients
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.reporter import SilentProgress, SilentReporter
from dpdm_cli.training.config.settings import TrainSettings
from dpdm_cli.training.probe_records import ProbeRecords, off_zero
from dpdm_cli.training.trainer import Trainer

pytestmark = [pytest.mark.slow, pytest.mark.check]


def trainer(*, precision: str = "float32", micro_batch: int = 4, **plan: object) -> Trainer:
    """As a run starts it: fresh weights, behind whose zeros hardly a gradient shows."""
    the_plan = tiny.plan(**plan)
    made = Trainer(
        tiny.config(),
        TrainSettings(noise_multiplicity=2, micro_batch=micro_batch, precision=precision),
        tiny.images(64),
        steps=the_plan.steps,
        sample_rate=the_plan.sample_rate,
        ledger=Ledger(the_plan),
        device=torch.device("cpu"),
    )
    made._workers = 1  # among several, micro-batches are smaller
    return made


@pytest.mark.parametrize("warm", [{}, {"warm_start": "moments", "warm_sigma": 2.0}], ids=str)
def test_the_checks_tell_how_far_they_are(
    warm: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []

    class Bar(SilentProgress):
        def advance(self, count: int = 1, **_: str) -> None:
            shown.append(count)

    class Watching(SilentReporter):
        @contextmanager
        def progress(self, title: str, total: int, *_: object) -> Iterator[Bar]:
            shown.append(-total)
            yield Bar()

    made = trainer(**warm)
    monkeypatch.setattr(made, "_reporter", Watching())
    made.check()
    assert sum(shown) == 0
    assert len(shown) == 7


def bits(network: nn.Module) -> list[bytes]:
    return [p.detach().contiguous().numpy().tobytes() for p in network.parameters()]


def test_weights_are_off_zero_for_the_duration_and_then_their_own_to_the_bit() -> None:
    network = UNet(tiny.config())
    with torch.no_grad():
        network.head.weight[0, 0, 0] = torch.tensor([-0.0, math.nan, 1e-45])
    before = bits(network)
    with off_zero(network):
        moved = bits(network)
    assert all(one != other for one, other in zip(before, moved, strict=True))
    assert bits(network) == before
    with off_zero(network):
        assert bits(network) == moved  # the same every time, whatever generators do
    with pytest.raises(KeyboardInterrupt), off_zero(network):
        raise KeyboardInterrupt
    assert bits(network) == before


def test_off_zero_every_tensor_has_a_part_in_an_ordinary_gradient() -> None:
    denoiser = Denoiser(UNet(tiny.config()), PARAMETERISATIONS["edm"])
    probes = ProbeRecords(denoiser, tiny.config(), 2, 8)
    per_example = PerExampleGradients(denoiser.network)
    sizes = [p.numel() for p in per_example.parameters]

    def small_shares() -> int:
        gradients = per_example(probes.losses, torch.arange(2))
        norms = torch.stack([part.norm(dim=1) for part in torch.split(gradients, sizes, 1)])
        return int((norms.amax(1) < 1e-3 * gradients.norm(dim=1).max()).sum())

    assert small_shares() > len(sizes) * 3 / 4
    with off_zero(denoiser.network):
        assert small_shares() == 0


def test_a_check_leaves_the_trainer_as_it_was() -> None:
    made = trainer()
    before = {name: tensor.detach().clone() for name, tensor in made.state().items()}
    state = torch.random.get_rng_state()
    made.check()
    assert torch.equal(state, torch.random.get_rng_state())
    after = made.state()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in made._denoiser.network.parameters())
    assert made.ledger is not None
    assert made.ledger.releases == 0


@pytest.mark.parametrize(
    ("broken", "error"), [("raises", RuntimeError), ("is not private", PrivacyError)]
)
def test_a_check_that_raises_leaves_the_trainer_as_it_was(
    broken: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer()
    before = bits(made._denoiser.network)
    real, calls = step.clipped_sum, []

    def clip(gradients: Tensor, clip_norm: float) -> Tensor:
        calls.append(clip_norm)
        if broken == "raises" and len(calls) == 20:
            raise RuntimeError("in the middle of it")
        return real(gradients, (1 if broken == "raises" else 2) * clip_norm)

    monkeypatch.setattr(step, "clipped_sum", clip)
    with pytest.raises(error):
        made.check()
    assert bits(made._denoiser.network) == before
    assert all(parameter.grad is None for parameter in made._denoiser.network.parameters())


@pytest.mark.parametrize(
    "mutant",
    [
        name
        for name, mutant in MUTANTS.items()
        if mutant.detector in ("sensitivity, each tensor", "sensitivity, all tensors")
    ],
)
def test_a_fresh_network_hides_nothing(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[mutant].break_it(monkeypatch)
    with pytest.raises(PrivacyError, match=MUTANTS[mutant].detector):
        trainer().check()


def test_the_check_runs_under_the_autocast_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    real = UNet.forward

    def coupled_in_bf16(self: UNet, x: Tensor, *rest: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            x = x + 0.5 * x.mean(0, keepdim=True)
        return real(self, x, *rest)

    trainer(precision="bf16").check()
    monkeypatch.setattr(UNet, "forward", coupled_in_bf16)
    trainer(precision="float32").check()
    with pytest.raises(PrivacyError, match="sensitivity"):
        trainer(precision="bf16").check()


def test_the_check_fills_the_micro_batch_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    real = step.clipped_sum

    def only_the_first_40(gradients: Tensor, clip_norm: float) -> Tensor:
        beyond = gradients[40:].nan_to_num(0.0, 0.0, 0.0).sum(0)
        return real(gradients[:40], clip_norm) + beyond

    monkeypatch.setattr(step, "clipped_sum", only_the_first_40)
    trainer(micro_batch=40).check()
    with pytest.raises(PrivacyError, match="each tensor"):
        trainer(micro_batch=64).check()


def test_the_check_plays_a_batch_of_the_run_s_size(monkeypatch: pytest.MonkeyPatch) -> None:
    real = step.micro_batches

    def only_the_first_4(batch: Tensor, most: int, workers: int) -> Sequence[Tensor]:
        found = real(batch, most, workers)
        return found[:4] if most == 64 else found

    def check() -> None:
        trainer(micro_batch=64, dataset_size=900, expected_batch_size=size).check()

    monkeypatch.setattr(step, "micro_batches", only_the_first_4)
    size = 256
    check()
    size = 300
    with pytest.raises(PrivacyError, match="each tensor"):
        check()
