"""Fixtures that many tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.untimed import untimed


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets, laid out as torchvision does."""
    folder = os.environ.get("DPDM_DATA_DIR")
    if not folder:
        pytest.skip(
            "DPDM_DATA_DIR is unset: this test needs the real MNIST and Fashion-MNIST files"
        )
    return Path(folder)


@contextmanager
def _process_as_it_was() -> Iterator[None]:
    """Put back what a run sets for its whole process: TF32, and the kernels that it found fastest.

    Imports nothing that a test may not need: of what is not there yet, only the kernels are forgotten afterwards.
    """
    torch = sys.modules.get("torch")
    switches = [torch.backends.cuda.matmul, torch.backends.cudnn] if torch else []
    allowed = [switch.allow_tf32 for switch in switches]
    convolution = sys.modules.get("dpdm_cli.privacy.gradients.convolution")
    chosen = dict(convolution._chosen) if convolution else {}
    yield
    for switch, before in zip(switches, allowed, strict=True):
        switch.allow_tf32 = before
    if convolution := sys.modules.get("dpdm_cli.privacy.gradients.convolution"):
        convolution._chosen.clear()
        convolution._chosen.update(chosen)


@pytest.fixture(autouse=True, scope="module")
def _module_leaves_process_as_it_was() -> Iterator[None]:
    """Also what fixtures of the module set."""
    with _process_as_it_was():
        yield


@pytest.fixture(autouse=True)
def _test_leaves_process_as_it_was() -> Iterator[None]:
    with _process_as_it_was():
        yield


@pytest.fixture(autouse=True)
def _runs_are_not_timed_beforehand(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of tiny runs each spent seconds on their forecast; tests marked `forecast` look at it."""
    if request.node.get_closest_marker("forecast") is None:
        for name in ("dpdm_cli.training.run", "dpdm_cli.training.dry_run"):
            if module := sys.modules.get(name):
                monkeypatch.setattr(module, "foresee", untimed(module.foresee))


@pytest.fixture(scope="module")
def _checked_steps() -> set[str]:
    """The steps, by all that makes them, that this file's runs have checked."""
    return set()


@pytest.fixture(autouse=True)
def _a_step_is_checked_once_in_a_file(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _checked_steps: set[str]
) -> None:
    """A second of checks begins each run; tests marked `check` break the step, or look at what its checks do."""
    trainer = sys.modules.get("dpdm_cli.training.trainer")
    if trainer is None or request.node.get_closest_marker("check"):
        return
    whole = trainer.check_before_training

    def check(denoiser: Any, config: Any, plan: Any, **how: Any) -> None:
        told = how.pop("progress")
        step = repr((config, plan.to_dict(), how))
        if step not in _checked_steps:
            whole(denoiser, config, plan, progress=told, **how)
            _checked_steps.add(step)

    monkeypatch.setattr(trainer, "check_before_training", check)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` run where there is a CUDA device, and nowhere else."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no CUDA device")
