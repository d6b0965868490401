"""The steps of a training run, with what is shown and saved between them."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from dpdm_cli.compute.distributed import Processes
from dpdm_cli.errors import InterruptedRunError, ResourceError
from dpdm_cli.privacy.accounting.claims import claim, round_up, spent
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.reporter import Reporter, WhenShown
from dpdm_cli.signals import StopRequest
from dpdm_cli.training.folder.run_folder import RunFolder
from dpdm_cli.training.folder.run_state import RunState
from dpdm_cli.training.preview import Previews
from dpdm_cli.training.trainer import Trainer

SECONDS_BETWEEN_SAVES = 120.0
_TWENTIETHS = 20


def take_steps(
    trainer: Trainer,
    folder: RunFolder,
    state: RunState,
    stop: StopRequest,
    reporter: Reporter,
    log_losses: bool,
    processes: Processes,
    previews: Previews | None = None,
) -> None:
    """Take the remaining steps, saving on the way and at the end.

    Args:
        trainer: what is trained.
        folder: where its state is kept.
        state: stored beside it, with what was done meanwhile.
        stop: whether somebody has asked to stop.
        reporter: gets the progress.
        log_losses: write the private training loss to `folder.losses`.
        processes: that train together.
        previews: what is drawn on the way.

    Raises:
        InterruptedRunError: on such a request, after the state was saved.
        ResourceError: processes that differ, weights that are no longer finite, no memory, a full disk.
    """

    def save() -> None:
        if processes.size > 1:
            processes.check_same(
                trainer.digest(),
                f"after step {trainer.done} the weights",
                "use machines of one kind, and have their memory tested; the last saved state is unchanged",
            )
        processes.broadcast(write)

    def write() -> None:
        tensors = trainer.state()
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ResourceError(
                f"the weights are no longer finite after {trainer.done} steps",
                "start again with a smaller --lr; the last saved state is unchanged",
            )
        folder.save_state(tensors, replace(state, done=trainer.done))

    def is_shown() -> bool:
        return previews is not None and trainer.done > 0 and trainer.done % previews.every == 0

    def show() -> None:
        if previews is not None and not folder.is_complete:
            previews.draw()

    if is_shown():
        processes.broadcast(show)  # whoever saved this step may have been killed before
    epsilon = epsilon_so_far(None if trainer.ledger is None else trainer.ledger.plan)
    saved_at = time.monotonic()
    saved_steps = trainer.done
    records_a_step = trainer.expected_batch_size
    started, first = time.monotonic(), trainer.done
    a_second = f"{trainer.ledger.plan.record if trainer.ledger else 'image'}s/s"
    with reporter.progress("training", trainer.steps, "steps", trainer.done) as progress:
        while trainer.done < trainer.steps:
            trainer.step()
            rate = (trainer.done - first) * records_a_step / (time.monotonic() - started)
            so_far = WhenShown(partial(epsilon, trainer.done))
            progress.advance(1, **{a_second: f"{rate:,.0f}", "epsilon": so_far})
            failed = _log_loss(folder.losses, trainer, processes) if log_losses else 0
            due = is_shown() or time.monotonic() - saved_at > SECONDS_BETWEEN_SAVES
            signal_number, is_due, number = processes.all_reduce_max(
                stop.signal_number, due, failed
            )
            if signal_number or is_due or number:
                save()
                saved_at, saved_steps = time.monotonic(), trainer.done
            if is_shown():
                processes.broadcast(show)
            if number:
                raise ResourceError(
                    f"{folder.losses}: cannot write: {os.strerror(number)}; stopped after step {trainer.done}, the "
                    "state is saved",
                    "free space and go on with --resume, or without --log-losses",
                )
            if signal_number and trainer.done < trainer.steps:
                raise InterruptedRunError(
                    f"stopped after step {trainer.done} of {trainer.steps}; the state is saved",
                    f"continue with the same command and --resume, or --out {folder.path} --resume",
                    signal_number,
                )
    if saved_steps < trainer.steps:
        save()


def epsilon_so_far(plan: PrivacyPlan | None) -> Callable[[int], str]:
    """From steps done to 'spent of planned', for the screen. An upper bound at every step: that of the next twentieth
    of the run, since its accountant takes too long to be asked at each.
    """
    if plan is None:
        return lambda done: "NOT PRIVATE"
    total = claim(plan)

    @cache
    def text(twentieths: int) -> str:
        steps = -(-plan.steps * twentieths // _TWENTIETHS)
        return f"<= {round_up(spent(plan, steps), 2):.2f} of {total.epsilon_text}"

    return lambda done: text(-(-done * _TWENTIETHS // plan.steps))


def _log_loss(path: Path, trainer: Trainer, processes: Processes) -> int:
    """Write the loss of the step down, in the first process; gives the number of the system's error, or 0."""
    loss = trainer.mean_loss()
    if not processes.is_first:
        return 0
    try:
        with open(path, "a", encoding="utf-8", opener=_own) as file:
            file.write(json.dumps({"step": trainer.done, "loss": loss}) + "\n")
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _own(path: str, flags: int) -> int:
    """Open for the owner alone."""
    return os.open(path, flags, 0o600)
