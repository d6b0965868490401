"""What runs in the processes that the fault tests start: training, with one fault in it."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dpdm_cli import files, signals
from dpdm_cli.errors import DpdmError
from dpdm_cli.privacy import noise
from dpdm_cli.privacy.accounting.claims import claim
from dpdm_cli.privacy.accounting.risk import risk_of
from dpdm_cli.privacy.gradients.per_example import PerExampleGradients
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.sampling import grids
from dpdm_cli.training import loop as training_loop
from dpdm_cli.training import run as training
from dpdm_cli.training.trainer import Trainer
from support.tiny import FewSteps

STEPS = 3
PLAN = PrivacyPlan(
    dataset_size=1438, expected_batch_size=32, steps=STEPS, sigma=0.7, delta=1e-4, accountant="rdp"
)
_ = claim(PLAN), risk_of(PLAN)  # remembered, so that the processes do not compute them again
SETTINGS: dict[str, Any] = {
    "preset": "small",
    "width": 8,
    "embedding": 8,
    "multipliers": (1,),
    "micro_batch": 64,
    "device": "cpu",
}


def train(out: Path, plan: Path, resume: bool, fault: str = "", number: int = 0) -> None:
    """Train on the digits, saving after every step, with a fault; exits as the command would."""
    torch.set_num_threads(1)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    training_loop.SECONDS_BETWEEN_SAVES = 0.0
    grids.SamplerSettings = FewSteps  # type: ignore[misc]
    Trainer.check = lambda self: None  # type: ignore[method-assign]  # longer than all else, and no fault is in it
    if fault:
        globals()[f"_{fault}"](number)
    try:
        training.train("digits", out, plan=plan, resume=resume, **SETTINGS)
    except DpdmError as error:
        os._exit(error.exit_code)
    os._exit(0)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(module: Any, name: str, act: Callable[[], None]) -> None:
    real = getattr(module, name)

    def acting(*args: Any, **kwargs: Any) -> Any:
        act()
        return real(*args, **kwargs)

    setattr(module, name, acting)


def _killed_at_write_point(number: int) -> None:
    """SIGKILL with the (number // 3)-th file half written or not synced, before it is moved to its name, or after."""
    file, moment = divmod(number, 3)
    moved, synced = [0], [0]
    write_bytes, fsync, replace = Path.write_bytes, os.fsync, os.replace

    def dying_write(self: Path, data: bytes) -> int:
        if moment == 0 and moved[0] == file and self.name.endswith(".part"):
            write_bytes(self, data[: len(data) // 2])
            _die()
        return write_bytes(self, data)

    def dying_sync(handle: int) -> None:
        # Each file is synced, moved, and then its folder is synced.
        if moment == 0 and synced[0] == 2 * file:
            _die()
        synced[0] += 1
        fsync(handle)

    def dying_move(source: Any, target: Any) -> None:
        if moment == 1 and moved[0] == file:
            _die()
        replace(source, target)
        if moment == 2 and moved[0] == file:
            _die()
        moved[0] += 1

    Path.write_bytes = dying_write
    files.os.fsync = dying_sync
    files.os.replace = dying_move


def _killed_at_random(number: int) -> None:
    wait = random.Random(number).uniform(0.0, 1.0)

    def later() -> None:
        time.sleep(wait)
        _die()

    threading.Thread(target=later, daemon=True).start()


def _no_room(number: int) -> None:
    """The kernel refuses files beyond so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))


def _out_of_memory() -> None:
    raise torch.OutOfMemoryError("out of memory")


def _after_one_step(act: Callable[[], None]) -> Callable[[], None]:
    done = [0]
    real = Trainer.step

    def step(self: Trainer) -> None:
        real(self)
        done[0] += 1

    Trainer.step = step
    return lambda: act() if done[0] >= 1 else None


def _no_memory_in_backward(_: int) -> None:
    _before(PerExampleGradients, "__call__", _after_one_step(_out_of_memory))


def _no_memory_in_noise(_: int) -> None:
    _before(noise, "standard_normal", _after_one_step(_out_of_memory))


def _no_memory_in_save(_: int) -> None:
    import safetensors.torch

    def act() -> None:
        raise MemoryError

    _before(safetensors.torch, "save", _after_one_step(act))


def _signals(number: int) -> None:
    """SIGINT or SIGTERM in the second step, once or (a negative number) in two requests."""
    signals.SECONDS_OF_ONE_REQUEST = 0.05
    _in_the_second_step(*[abs(number)] * (1 if number > 0 else 2), pause=0.1)


def _signals_together(number: int) -> None:
    """As a launcher stops a job: by its process group, and once more by torchrun."""
    _in_the_second_step(number, number, pause=0.01)


def _in_the_second_step(*numbers: int, pause: float) -> None:
    real = Trainer.step

    def step(self: Trainer) -> None:
        if self.done == 1:
            for number in numbers:
                os.kill(os.getpid(), number)
                time.sleep(pause)
        real(self)

    Trainer.step = step


def _none(_: int) -> None:
    """No fault: hold the folder a while."""
    real = Trainer.step

    def step(self: Trainer) -> None:
        time.sleep(1.0)
        real(self)

    Trainer.step = step
