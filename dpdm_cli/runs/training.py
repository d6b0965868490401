"""A training run: images in, a publishable model and its statement out."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dpdm_cli.data import ImageSet, duplicate_count, load_images
from dpdm_cli.data.named import NAMED
from dpdm_cli.diffusion.unet import UNetConfig
from dpdm_cli.errors import (
    DamagedFileError,
    InterruptedRunError,
    PrivacyError,
    ResourceError,
    UsageError,
)
from dpdm_cli.launched import local_rank
from dpdm_cli.privacy.accountants import composed_rdp_epsilon
from dpdm_cli.privacy.accounting import claim
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.statement import NOT_PRIVATE, non_private_statement, private_statement
from dpdm_cli.processes import Processes, joined
from dpdm_cli.runs.checkpoint import Model, save_model
from dpdm_cli.runs.device import resolve_device, set_precision
from dpdm_cli.runs.grids import draw_grid
from dpdm_cli.runs.planning import check_beside_plan, plan_run, public_size, read_plan, step_count
from dpdm_cli.runs.public_start import PublicStart, read_public
from dpdm_cli.runs.reporter import Reporter, SilentReporter
from dpdm_cli.runs.resuming import fingerprint, resumed_settings
from dpdm_cli.runs.run_folder import RunFolder
from dpdm_cli.runs.settings import TrainSettings, merge
from dpdm_cli.runs.signals import StopRequest, stop_requests
from dpdm_cli.runs.trainer import Trainer

SECONDS_BETWEEN_SAVES = 120.0


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run leaves.

    Attributes:
        folder, model: the run folder and the publishable file in it.
        statement: the claim, as stored beside and inside the model.
        parameters: trainable parameters of the network.
        seconds: wall clock of this process's training steps.
    """

    folder: Path
    model: Path
    statement: dict[str, Any]
    parameters: int
    seconds: float


def train(
    data: str,
    out: Path | str,
    *,
    preset: str | None = None,
    config: Path | None = None,
    plan: Path | None = None,
    private: bool = True,
    resume: bool = False,
    init_from: Path | None = None,
    device: str = "auto",
    data_dir: Path | None = None,
    download: bool = True,
    classes: Sequence[str] | None = None,
    channels: int | None = None,
    log_losses: bool = False,
    reporter: Reporter | None = None,
    **settings: Any,
) -> TrainResult:
    """Train a diffusion model on images under (epsilon, delta)-differential privacy.

    Started by torchrun, all processes call this and train one model together: the same mechanism, plan, ledger and
    claim as one process. The first of them reads and writes `out`; each of them needs the images.

    Args:
        data: digits, mnist, fashion-mnist, cifar10, celeba, or a folder, zip or npz of images, or a file of `prepare`.
        out: the run folder; must be empty or absent unless `resume`.
        preset: small or paper; by default small on a CPU, paper elsewhere.
        config: TOML file of settings.
        settings: fields of `TrainSettings`, which override it.
        plan: a plan written by `dpdm calibrate --out`; it replaces epsilon, delta, batch size, steps, C and K.
        private: False trains without clipping and noise, and every output says NOT PRIVATE.
        resume: go on with the run in `out`, under its own settings and plan.
        init_from: a model trained with `private=False` on images that you declare public; its weights are where this
            one starts.
        device: auto, cpu, cuda or mps.
        data_dir, download, classes, channels: see `load_images`.
        log_losses: write the private training loss to `private/losses.jsonl`.
        reporter: gets remarks and progress.

    Returns:
        Where the model lies and what may be claimed for it.

    Raises:
        UsageError, DataError, DamagedFileError, PrivacyError, ResourceError: with what to do about it.
        InterruptedRunError: on SIGINT or SIGTERM, after the state was saved.
    """
    torch_device = resolve_device(device)
    folder = RunFolder(Path(out))
    with ExitStack() as held:
        processes = held.enter_context(joined(torch_device))
        say = reporter if reporter and processes.is_first else SilentReporter()
        with processes.together():
            chosen = preset or default_preset(torch_device)
            wanted, origins = merge(data, preset=chosen, config=config, flags=settings)
            check_beside_plan(plan, settings)
            set_precision(wanted.precision, torch_device)
        processes.from_first(lambda: held.enter_context(folder.open(resume=resume)))
        tensors, saved = processes.tensors_from_first(folder.load_state) if resume else ({}, None)
        with processes.together():
            if saved is not None:
                wanted = resumed_settings(saved, wanted, origins, data, private)
            if data in NAMED and processes.size > 1:
                _fetch(data, data_dir, download)
        with processes.together():
            images = load_images(
                data,
                data_dir=data_dir,
                download=download,
                image_size=wanted.image_size,
                channels=channels,
                classes=classes,
            )
            if local_rank() == 0:
                images.verify()
            shape = network_config(images, wanted)
            public = _public_start(init_from, shape, saved)
            dataset_size, source, the_plan, ledger = _budget(
                data, wanted, images, plan, private, saved
            )
        if the_plan is not None:
            wanted = replace(wanted, noise_multiplicity=the_plan.noise_multiplicity)
        salt = saved["salt"] if saved else processes.from_first(lambda: secrets.token_hex(16))
        with processes.together():
            found = fingerprint(images, salt, saved)
        facts = {
            "data": data,
            "private": private,
            "settings": asdict(wanted),
            "dataset_size": dataset_size,
            "dataset_size_source": source,
            "plan": the_plan.to_dict() if the_plan else None,
            "init_from": public.sha256 if public else None,
            "salt": salt,
            "fingerprint": found,
        }
        told = json.dumps([facts, torch_device.type], sort_keys=True)
        processes.check_same(
            hashlib.sha256(told.encode()).hexdigest(),
            "the images, settings or kind of device",
            "give every machine the same files and the same command",
        )
        if processes.is_first:
            where = f"{torch_device.type}, {processes.size} processes"
            where = str(torch_device) if processes.size == 1 else where
            _remark(say, images, dataset_size, source, the_plan, where, repeated=not resume)
        trainer = Trainer(
            shape,
            wanted,
            images,
            steps=the_plan.steps if the_plan else step_count(dataset_size, wanted),
            sample_rate=the_plan.sample_rate if the_plan else wanted.batch_size / dataset_size,
            ledger=ledger,
            device=torch_device,
            processes=processes,
        )
        if trainer.tuning:
            say.detail(str(trainer.tuning))
        if saved is not None:
            if ledger is not None and saved["done"] != ledger.steps:
                raise DamagedFileError("the resume state and its ledger count different steps")
            trainer.restore(tensors, saved["done"])
        elif public is not None:
            trainer.start_from(public.weights)
        if trainer.done < trainer.steps:
            trainer.check()
        started = time.monotonic()
        with stop_requests() as stop, _memory_errors():
            trainer.warm_up()
            _run(trainer, folder, facts, stop, say, log_losses, processes)
        seconds = time.monotonic() - started

        def published() -> dict[str, Any]:
            if ledger is None:
                statement = non_private_statement(trainer.done)
            else:
                statement = private_statement(ledger, public.sha256 if public else None)
                statement["dataset_size_source"] = source
            model = Model(
                denoiser=trainer.averaged,
                config=shape,
                parameterisation=wanted.denoiser,
                classes=images.classes,
                dataset=data if data in NAMED else "custom",
                statement=statement,
            )
            if not folder.is_complete:
                save_model(folder.model, model)
                folder.write_statement(statement)
                draw_grid(model, folder.samples, torch_device)
                folder.write_manifest()
            return statement

        statement = processes.from_first(published)
    return TrainResult(
        folder=folder.path,
        model=folder.model,
        statement=statement,
        parameters=sum(p.numel() for p in trainer.averaged.network.parameters()),
        seconds=seconds,
    )


def _fetch(data: str, data_dir: Path | None, download: bool) -> None:
    """Have one process of each machine download a named set, before the others look for it."""
    if local_rank() == 0:
        load_images(data, data_dir=data_dir, download=download)


def _budget(
    data: str,
    settings: TrainSettings,
    images: ImageSet,
    plan: Path | None,
    private: bool,
    saved: dict[str, Any] | None,
) -> tuple[int, str, PrivacyPlan | None, Ledger | None]:
    """N, where it is from, and unless the run is not private its plan and ledger: those of a resumed run, or new ones.

    Raises:
        PrivacyError: a resumed run was started under another plan.
        UsageError, DamagedFileError: no plan can be made, or the one that is named is none.
    """
    if saved is None:
        dataset_size, source = public_size(data, settings, len(images.images))
        if not private:
            return dataset_size, source, None, None
        made = read_plan(plan, dataset_size) if plan else plan_run(dataset_size, settings)
        return dataset_size, source, made, Ledger(made)
    dataset_size, source = saved["dataset_size"], saved["dataset_size_source"]
    before = PrivacyPlan.from_dict(saved["plan"]) if private else None
    if plan is not None and read_plan(plan, dataset_size) != before:
        raise PrivacyError(
            f"{plan} is not the plan this run was started under", "resume without --plan"
        )
    ledger = Ledger.from_dict(before, saved["ledger"]) if before else None
    return dataset_size, source, before, ledger


def default_preset(device: torch.device) -> str:
    """The preset for a device when none is named."""
    return "small" if device.type == "cpu" else "paper"


def network_config(images: ImageSet, settings: TrainSettings) -> UNetConfig:
    """The network for these images.

    Raises:
        UsageError: images that are not square, or whose size does not divide by the network's strides.
    """
    height, width = images.size
    if height != width:
        raise UsageError(
            f"the images are {width}x{height}, the network needs square ones",
            "pass --image-size 32 to crop and resize them",
        )
    stride = settings.patch * 2 ** (len(settings.multipliers) - 1)
    if height % stride or height < stride:
        raise UsageError(
            f"the images' side is {height} pixels, this network needs a multiple of {stride}",
            f"pass --image-size {max(stride, round(height / stride) * stride)}",
        )
    attention = (height // stride,) if settings.attention is None else settings.attention
    return UNetConfig(
        image_size=height,
        image_channels=images.channels,
        classes=len(images.classes),
        channels=settings.width,
        multipliers=settings.multipliers,
        blocks=settings.blocks,
        attention=attention,
        patch=settings.patch,
        embedding=settings.embedding,
    )


def _public_start(
    path: Path | None, shape: UNetConfig, saved: dict[str, Any] | None
) -> PublicStart | None:
    """The public model to start from; for a resumed run, that it was started from, without its weights.

    Raises:
        PrivacyError: a resumed run was started from another one.
        DataError, DamagedFileError, UsageError: see `read_public`.
    """
    found = None if path is None else read_public(path, shape)
    if saved is None:
        return found
    digest = saved.get("init_from")
    if found is not None and found.sha256 != digest:
        raise PrivacyError(
            f"{path} is not what this run was started from", "resume without --init-from"
        )
    return None if digest is None else PublicStart(sha256=digest, weights={})


def _run(
    trainer: Trainer,
    folder: RunFolder,
    facts: dict[str, Any],
    stop: StopRequest,
    say: Reporter,
    log_losses: bool,
    processes: Processes,
) -> None:
    """Take the remaining steps, saving on the way and at the end."""

    def save() -> None:
        if processes.size > 1:
            processes.check_same(
                trainer.digest(),
                f"after step {trainer.done} the weights",
                "use machines of one kind, and have their memory tested; the last saved state is unchanged",
            )
        processes.from_first(write)

    def write() -> None:
        tensors = trainer.state()
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ResourceError(
                f"the weights are no longer finite after {trainer.done} steps",
                "start again with a smaller --lr; the last saved state is unchanged",
            )
        ledger = trainer.ledger.to_dict() if trainer.ledger else None
        folder.save_state(tensors, {**facts, "done": trainer.done, "ledger": ledger})

    epsilon = _epsilon_so_far(trainer)
    saved_at = time.monotonic()
    saved_steps = trainer.done
    images_a_step = trainer.expected_batch_size
    started, first = time.monotonic(), trainer.done
    with say.progress("training", trainer.steps, "steps", trainer.done) as progress:
        while trainer.done < trainer.steps:
            trainer.step()
            rate = (trainer.done - first) * images_a_step / (time.monotonic() - started)
            progress.advance(1, **{"images/s": f"{rate:,.0f}", "epsilon": epsilon(trainer.done)})
            if log_losses:
                _log_loss(folder.losses, trainer.done, trainer.mean_loss(), processes)
            due = time.monotonic() - saved_at > SECONDS_BETWEEN_SAVES
            signal_number, is_due = processes.largest(stop.signal_number, due)
            if signal_number or is_due:
                save()
                saved_at, saved_steps = time.monotonic(), trainer.done
            if signal_number and trainer.done < trainer.steps:
                raise InterruptedRunError(
                    f"stopped after step {trainer.done} of {trainer.steps}; the state is saved",
                    f"go on with the same command and --resume, or --out {folder.path} --resume",
                    signal_number,
                )
    if saved_steps < trainer.steps:
        save()


def _epsilon_so_far(trainer: Trainer) -> Any:
    """From steps done to 'spent of planned', for the screen. An upper bound at every step."""
    if trainer.ledger is None:
        return lambda done: "NOT PRIVATE"
    plan = trainer.ledger.plan
    total = claim(plan)

    def text(done: int) -> str:
        parts = plan.parts(0, plan.warm_releases + done)
        spent = min(composed_rdp_epsilon(parts, plan.delta), total.epsilon)
        return f"<= {spent:.2f} of {total.epsilon_text}"

    return text


def _remark(
    say: Reporter,
    images: ImageSet,
    dataset_size: int,
    source: str,
    plan: PrivacyPlan | None,
    where: str,
    *,
    repeated: bool,
) -> None:
    """What a user should know before the first step."""
    if plan is None:
        say.warn(NOT_PRIVATE)
    else:
        result = claim(plan)
        warm = ""
        if plan.warm_releases:
            warm = f"warm start by {plan.warm_start} at sigma {plan.warm_sigma:.6g}, "
        say.note(
            f"plan: epsilon {result.epsilon_text} at delta {plan.delta:g} ({result.accountant}), N = {dataset_size:,} "
            f"({source}), {warm}expected batch {plan.expected_batch_size:g}, {plan.steps:,} steps, "
            f"sigma {plan.sigma:.6g}, C = {plan.clip_norm:g}, K = {plan.noise_multiplicity}, on {where}"
        )
        if source.startswith("counted"):
            say.note(
                "the number of images is taken to be public; state another with --dataset-size"
            )
    if repeated and (copies := duplicate_count(images)):
        say.warn(
            f"{copies} images are exact copies of others: the claim protects one file, not one picture"
        )


def _log_loss(path: Path, step: int, loss: float, processes: Processes) -> None:
    if processes.is_first:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "loss": loss}) + "\n")


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Running out of memory ends the run; a drawn batch is never skipped and tried again."""
    hint = "choose a smaller --micro-batch (it changes nothing but speed) and go on with --resume"
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ResourceError("out of memory during a training step", hint) from error
    except RuntimeError as error:
        if "not enough memory" in str(error) or "can't allocate memory" in str(error):
            raise ResourceError("out of memory during a training step", hint) from error
        raise
