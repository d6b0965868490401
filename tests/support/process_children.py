"""What the processes of a test do that train together; functions of a module, so that they can be found by name."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpdm_cli.compute.distributed import Processes
from dpdm_cli.compute.rendezvous import joined
from dpdm_cli.errors import DataError, ResourceError
from dpdm_cli.privacy import noise
from dpdm_cli.privacy.accounting.claims import claim, planned
from dpdm_cli.privacy.accounting.risk import risk_of
from dpdm_cli.privacy.audit import checks
from dpdm_cli.privacy.audit.findings import Finding
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.plan_file import write_plan_file
from dpdm_cli.sampling import grids
from dpdm_cli.training import run as training
from dpdm_cli.training.config.settings import TrainSettings
from dpdm_cli.training.folder.run_folder import RunFolder
from dpdm_cli.training.trainer import Trainer
from support import tiny

CPU = torch.device("cpu")
STEPS = 20
RECORDS = 64


# ---------------------------------------------------------------- the same figures, whoever computes them


class GivenMasks:
    """Batches of all sizes, from none to more than there are processes, the same in every run from a step on."""

    def __init__(self, first: int = 0) -> None:
        self._steps = itertools.count(first)

    def draw(self, records: int) -> torch.Tensor:
        step = next(self._steps)
        random = np.random.default_rng([5, step])
        size = step if step < 4 else random.binomial(records, 16 / records)
        return torch.from_numpy(np.sort(random.choice(records, size, replace=False)))


def given_noise(processes: Processes, first: int = 0) -> Callable[..., Any]:
    """In the place of the mechanism's noise: for each release the same numbers, cut out for each process."""
    releases = itertools.count(first)

    def normal(count: int, *_: Any) -> Any:
        whole = np.random.default_rng([6, next(releases)]).standard_normal(count * processes.size)
        return whole[count * processes.rank : count * (processes.rank + 1)]

    return normal


def trained_on_given_draws(
    warm_start: str, private: bool, device: str = "cpu"
) -> tuple[dict[str, torch.Tensor], Any]:
    """State and ledger after some steps."""
    with joined(torch.device(device)) as processes:
        trainer = _trainer(processes, warm_start, private, torch.device(device))
        trainer._noise_key = 0
        if private:
            noise.standard_normal = given_noise(processes)
            trainer._private_step._sampler = GivenMasks()  # type: ignore[assignment, union-attr]
        else:
            masks = GivenMasks()
            trainer._drawn = lambda: masks.draw(RECORDS)  # type: ignore[method-assign]
        trainer.warm_up()
        for _ in range(STEPS):
            trainer.step()
        ledger = trainer.ledger.to_json() if trainer.ledger else {}
        state = {name: tensor.detach().cpu() for name, tensor in trainer.state().items()}
        return state, (ledger.get("plan_digest"), ledger.get("releases"))


def _trainer(processes: Processes, warm_start: str, private: bool, device: torch.device) -> Trainer:
    # A size that no number of processes divides, so that parts of sums are padded.
    plan = tiny.plan(
        dataset_size=RECORDS,
        expected_batch_size=16,
        steps=STEPS,
        warm_start=warm_start,
        warm_sigma=None if warm_start == "none" else 0.5,
    )
    settings = TrainSettings(batch_size=16, noise_multiplicity=2, micro_batch=3, warmup=0)
    return Trainer(
        tiny.config(channels=12),
        settings,
        tiny.images(RECORDS),
        steps=STEPS,
        sample_rate=0.25,
        ledger=Ledger(plan) if private else None,
        device=device,
        processes=processes,
    )


# ---------------------------------------------------------------- runs, and what goes wrong in one process

PLAN = PrivacyPlan(
    dataset_size=1438, expected_batch_size=32, steps=6, sigma=0.7, delta=1e-4, accountant="rdp"
)
WARM_PLAN = replace(PLAN, warm_start="moments", warm_sigma=2.0)
# Remembered, so that the processes do not compute them again.
_ = [(claim(plan), risk_of(plan)) for plan in (PLAN, WARM_PLAN)]
TINY: dict[str, Any] = {
    "preset": "small",
    "width": 8,
    "embedding": 8,
    "multipliers": (1,),
    "micro_batch": 16,
    "device": "cpu",
}
grids.SamplerSettings = tiny.FewSteps  # type: ignore[misc]


def train(out: Path, private_plan: PrivacyPlan = PLAN, **changes: Any) -> training.TrainResult:
    """A short run on the digits."""
    # Processes that begin at once must not write the same file.
    plan = out.with_name(f"plan-{os.getpid()}.json")
    if not plan.exists():
        write_plan_file(plan, planned(private_plan))
    return training.train("digits", out, plan=plan, **{**TINY, **changes})


class Bug(Exception):
    """Nothing that the package foresees."""


def run(out: Path, fault: str = "none", rank: int = 0, **changes: Any) -> dict[str, Any]:
    """Train, with a fault in one of the processes; the statement, and a digest of the weights."""
    digests = []
    if fault not in ("none", "fails its checks"):
        Trainer.check = lambda self: None  # type: ignore[method-assign]  # longer than all else
    if fault != "none":
        _FAULTS[fault](int(os.environ["RANK"]) == rank, changes)
    ordinary = Trainer.step

    def step(self: Trainer) -> None:
        ordinary(self)
        digests.append(self.digest())

    Trainer.step = step  # type: ignore[method-assign]
    result = train(out, **changes)
    return {"statement": result.statement.to_json(), "digests": digests}


def run_on_given_draws(out: Path, until: int = WARM_PLAN.steps, resume: bool = False) -> None:
    """Train, with draws that are the same whoever takes a step; stop early by a signal to the last process."""
    ordinary = Trainer.warm_up
    Trainer.check = lambda self: None  # type: ignore[method-assign]  # of draws that are not given

    def warm_up(self: Trainer) -> None:
        assert self.ledger is not None
        self._noise_key = 0
        noise.standard_normal = given_noise(self._processes, self.ledger.releases)
        self._private_step._sampler = GivenMasks(self.done)  # type: ignore[assignment, union-attr]
        ordinary(self)

    Trainer.warm_up = warm_up  # type: ignore[method-assign]
    is_last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    if until < WARM_PLAN.steps and is_last:
        _before_step(until - 1, _asked_to_stop)
    train(out, WARM_PLAN, resume=resume)


def _before_step(number: int, act: Callable[[Trainer], None]) -> None:
    ordinary = Trainer.step

    def step(self: Trainer) -> None:
        if self.done == number:
            act(self)
        ordinary(self)

    Trainer.step = step  # type: ignore[method-assign]


def _within_step(number: int, act: Callable[[Trainer], None]) -> None:
    """While the losses are computed, after the batch was shared out."""
    ordinary = Trainer._losses

    def losses(self: Trainer, indices: torch.Tensor) -> torch.Tensor:
        if self.done == number:
            act(self)
        return ordinary(self, indices)

    Trainer._losses = losses  # type: ignore[method-assign]


def _raise(error: Exception) -> Callable[..., Any]:
    def act(*_: Any, **__: Any) -> None:
        raise error

    return act


def _killed(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _asked_to_stop(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _silent(*_: Any) -> None:
    time.sleep(3600)


def _slow(*_: Any) -> None:
    time.sleep(0.3)


def _at(patch: Callable[[], None]) -> Callable[[bool, dict[str, Any]], None]:
    return lambda here, changes: patch() if here else None


def _other_images() -> None:
    ordinary = training.load_images

    def load(*args: Any, **kwargs: Any) -> Any:
        images = ordinary(*args, **kwargs)
        images.images[3] += 1
        return images

    training.load_images = load


def _other_weights(trainer: Trainer) -> None:
    with torch.no_grad():
        next(trainer._denoiser.parameters()).view(-1)[0] += 1e-7


def _before_save(act: Callable[[Trainer], None]) -> None:
    ordinary = Trainer.digest

    def digest(self: Trainer) -> str:
        if self.done == self.steps:
            act(self)
        return ordinary(self)

    Trainer.digest = digest  # type: ignore[method-assign]


def _full_disk(name: str) -> None:
    setattr(RunFolder, name, _raise(ResourceError("no space left", "free some")))


def _patched(module: Any, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(module, name, value)


def _killed_by_the_first(module: Any, name: str) -> Callable[[bool, dict[str, Any]], None]:
    """The first process, which alone publishes, kills this one, maybe itself, when a part of that is done."""

    def patch(here: bool, changes: dict[str, Any]) -> None:
        ordinary, warm_up = getattr(module, name), Trainer.warm_up
        victims: list[int] = []

        def found(self: Trainer) -> None:
            pids = self._processes.all_gather(torch.tensor(os.getpid() if here else 0)).tolist()
            victims.extend(filter(None, pids))
            warm_up(self)

        def killing(*args: Any) -> Any:
            done = ordinary(*args)
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
            return done

        Trainer.warm_up = found  # type: ignore[method-assign]
        setattr(module, name, killing)

    return patch


def _other_settings(here: bool, changes: dict[str, Any]) -> None:
    if here:
        changes["seed"] = 1


_FAULTS: dict[str, Callable[[bool, dict[str, Any]], None]] = {
    "killed before a step": _at(lambda: _before_step(3, _killed)),
    "killed within a step": _at(lambda: _within_step(3, _killed)),
    "killed after the last step": _at(lambda: _before_save(_killed)),
    "out of memory": _at(lambda: _within_step(2, _raise(MemoryError()))),
    "a bug": _at(lambda: _within_step(2, _raise(Bug("two and two make five")))),
    "leaves early": _at(lambda: _before_step(3, lambda _: sys.exit(0))),
    "silent": _at(lambda: _before_step(3, _silent)),
    "slow": _at(lambda: _within_step(3, _slow)),
    "asked to stop": _at(lambda: _before_step(3, _asked_to_stop)),
    "no data": _at(
        _patched(training, "load_images", _raise(DataError("the disk with the images is gone")))
    ),
    "other images": _at(_other_images),
    "other settings": _other_settings,
    "other weights": _at(lambda: _before_step(3, _other_weights)),
    "fails its checks": _at(
        _patched(checks, "check_precision", lambda *_: [Finding("precision", False, "is gone")])
    ),
    "disk full at a save": _at(lambda: _full_disk("save_state")),
    "disk full at the end": _at(lambda: _full_disk("write_statement")),
    "killed after the model": _killed_by_the_first(training, "save_model"),
    "killed after the pictures": _killed_by_the_first(training, "draw_grid"),
    "killed after the manifest": _killed_by_the_first(RunFolder, "write_manifest"),
    "dies while loading": _at(_patched(training, "load_images", _killed)),
}
