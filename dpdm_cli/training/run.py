"""A training run: images in, a publishable model and its statement out."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from dpdm_cli.checkpoint import Model, save_model
from dpdm_cli.choices import Preset
from dpdm_cli.compute.device import memory_errors, resolve_device, set_precision
from dpdm_cli.compute.distributed import Processes
from dpdm_cli.compute.rendezvous import joined
from dpdm_cli.data import duplicate_count, load_images
from dpdm_cli.data.named import NAMED
from dpdm_cli.files import expanded
from dpdm_cli.keywords import keywords_shown
from dpdm_cli.privacy.accounting.claims import claim
from dpdm_cli.privacy.statement import (
    NOT_PRIVATE,
    AnyStatement,
    non_private_statement,
    private_statement,
    read_statement,
)
from dpdm_cli.reporter import Reporter, heard
from dpdm_cli.results import Result
from dpdm_cli.sampling.grids import draw_grid
from dpdm_cli.signals import stop_requests
from dpdm_cli.stored import Json
from dpdm_cli.training.config.request import TrainOptions, request_run
from dpdm_cli.training.config.settings import default_preset
from dpdm_cli.training.folder.run_folder import RunFolder
from dpdm_cli.training.folder.run_state import RunState
from dpdm_cli.training.forecast.forecast import foresee
from dpdm_cli.training.forecast.found import found_in
from dpdm_cli.training.loop import take_steps
from dpdm_cli.training.preset_remark import preset_remark
from dpdm_cli.training.preview import Previews, check_preview
from dpdm_cli.training.setup import Setup, set_up
from dpdm_cli.training.trainer import Trainer

_LESS_MEMORY = (
    "choose a smaller --micro-batch (it changes only the speed) and continue with --resume"
)
_LESS_AT_FIRST = (
    "choose a smaller --micro-batch (it changes only the speed) or a smaller network; "
    "images in a file of `dpdm prepare` are not held in memory"
)
_ELSEWHERE = (
    "the trained weights are saved: continue with --resume, where more is free or with --device cpu"
)


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainResult(Result):
    """What a finished run leaves.

    Attributes:
        folder, model: the run folder and the publishable file in it.
        statement: the claim, as stored beside and inside the model.
        parameters: trainable parameters of the network.
        seconds: wall clock of this process's training steps.
    """

    folder: Path
    model: Path
    statement: AnyStatement
    parameters: int
    seconds: float

    @property
    def summary(self) -> str:
        """One line."""
        return f"model in {self.folder}; {self.statement.headline}"

    def picture_png(self) -> Path | bytes | None:
        """What the model draws."""
        return self.folder / "samples.png"

    def to_dict(self) -> Json:
        """For JSON."""
        return {
            "out": str(self.folder),
            "model": str(self.model),
            "parameters": self.parameters,
            "seconds": round(self.seconds, 1),
            "private": self.statement.private,
            "epsilon": self.statement.epsilon,
            "delta": self.statement.delta,
            "statement": self.statement.text,
        }


@keywords_shown
def train(
    data: str,
    out: Path | str,
    *,
    preset: Preset | None = None,
    settings_for: str | None = None,
    config: Path | str | None = None,
    plan: Path | str | None = None,
    private: bool = True,
    resume: bool = False,
    init_from: Path | str | None = None,
    device: str = "auto",
    data_dir: Path | None = None,
    download: bool = True,
    classes: Sequence[str] | None = None,
    channels: int | None = None,
    public_metadata: bool = False,
    skip_bad: bool = False,
    log_losses: bool = False,
    preview: int | None = None,
    reporter: Reporter | None = None,
    **options: Unpack[TrainOptions],
) -> TrainResult:
    """Train a diffusion model on images under (epsilon, delta)-differential privacy.

    Started by torchrun, all processes call this and train one model together: the same mechanism, plan, ledger and
    claim as one process. The first of them reads and writes `out`; each of them needs the images.

    Args:
        data: digits, mnist, fashion-mnist, cifar10, celeba, or a folder, zip or npz of images, or a file of `prepare`.
        out: the run folder; must be empty or absent unless `resume`.
        preset: small or paper; by default small on a CPU, paper elsewhere.
        settings_for: take the preset's settings for this data set, `celeba64` or `imagenet32` for example; by default
            those for `data` where it is a named set. What is known of the images, N for one, stays that of `data`.
        config: TOML file of settings.
        options: settings, each by its name in `TrainSettings`, which says what it is; they override the file. And how
            images are read (labels, label_column, file_column, person_column, layout, window), see `Reading`.
        plan: a plan written by `dpdm calibrate --out`; it replaces epsilon, delta, batch size, steps, C and K.
        private: False trains without clipping and noise, and every output says NOT PRIVATE.
        resume: continue the run in `out`, with its own settings and plan.
        init_from: a model trained with `private=False` on images that you declare public; its weights are where this
            one starts.
        device: auto, cpu, cuda or mps.
        data_dir, download, classes, channels: see `load_images`.
        public_metadata: N, class names, image size and colours are public knowledge: they may be read off images of
            your own, and published, where you don't state them by `dataset_size`, `classes`, `image_size` and
            `channels`. A private run needs the one or the other; a named set's are published.
        skip_bad: leave out files that cannot be used, and images that the table of labels does not know.
        log_losses: write the private training loss to `private/losses.jsonl`.
        preview: after every so many steps draw a grid of images to `previews/`. It costs no privacy: each is drawn from
            an iterate of the accounted run, and the claim holds for all of them together.
        reporter: gets remarks and progress; by default warnings are Python's, and a notebook shows progress.

    Returns:
        Where the model is and what may be claimed for it.

    Raises:
        PrivacyError: a figure that the claim takes as public is neither stated nor declared; or what would make the
            claim false.
        UsageError, DataError, DamagedFileError, ResourceError: with what to do about it.
        InterruptedRunError: on SIGINT or SIGTERM, after the state was saved.
    """
    check_preview(preview)
    torch_device = resolve_device(device)
    folder = RunFolder(expanded(out))
    with ExitStack() as held:
        processes = held.enter_context(joined(torch_device, "train"))
        reporter = heard(reporter, is_first=processes.is_first)
        load = partial(load_images, data, data_dir=data_dir, download=download, reporter=reporter)
        # They decide which calls follow: processes that differ would wait for each other in different ones.
        processes.check_same(
            json.dumps([data, private, resume, log_losses, preview]),
            "the data, --non-private, --resume, --log-losses or --preview",
            "give every machine the same command",
        )
        with processes.together():
            request = request_run(
                data,
                preset or default_preset(torch_device.type),
                settings_for=settings_for,
                config=config,
                plan=plan,
                private=private,
                init_from=init_from,
                classes=classes,
                channels=channels,
                public_metadata=public_metadata,
                skip_bad=skip_bad,
                **options,
            )
            set_precision(request.settings.precision, torch_device)
        processes.broadcast(lambda: held.enter_context(folder.open(resume=resume)))
        tensors, saved = _saved(folder, processes) if resume else ({}, None)
        setup = set_up(request, load, saved=saved, device=torch_device, processes=processes)
        spec = setup.spec
        if preset is None and saved is None and not reporter.quiet:
            reporter.note(preset_remark(spec, torch_device))
        _remark(reporter, setup, torch_device, processes, is_new=saved is None)
        with memory_errors("while the network was set up", _LESS_AT_FIRST):
            forecast = None
            if processes.broadcast(lambda: saved is None and not reporter.quiet):
                if data not in NAMED:
                    reporter.note(found_in(setup.images))
                forecast = foresee(
                    spec, setup.images, torch_device, reporter, processes, preview=preview
                )
                for words in forecast.words:
                    reporter.note(f"forecast: {words}")
            trainer = Trainer(
                spec.network,
                spec.settings,
                setup.images,
                steps=spec.steps,
                sample_rate=spec.sample_rate,
                ledger=setup.ledger,
                device=torch_device,
                processes=processes,
                tuning=forecast.cost.tuning if forecast and forecast.cost else None,
                reporter=reporter,
            )
            if trainer.tuning:
                reporter.detail(str(trainer.tuning))
            if saved is not None:
                trainer.restore(tensors, saved.done)
                processes.broadcast(lambda: folder.check_previews(preview, trainer.done))
            elif spec.start is not None:
                trainer.start_from(spec.start.weights)
        if trainer.done < trainer.steps:
            processes.broadcast(lambda: folder.check_room(trainer.state()))
            with memory_errors("while the training step was checked", _LESS_AT_FIRST):
                trainer.check()
        started = time.monotonic()
        with stop_requests() as stop, memory_errors("during a training step", _LESS_MEMORY):
            trainer.warm_up()
            previews = preview and Previews(
                preview, lambda: _draw_preview(folder, setup, trainer, torch_device)
            )
            take_steps(
                trainer,
                folder,
                setup.state(),
                stop,
                reporter,
                log_losses,
                processes,
                previews or None,
            )
        seconds = time.monotonic() - started
        told = processes.broadcast(lambda: _publish(folder, setup, trainer, torch_device))
    return TrainResult(
        folder=folder.path,
        model=folder.model,
        statement=read_statement(told),
        parameters=sum(p.numel() for p in trainer.averaged.network.parameters()),
        seconds=seconds,
    )


def _remark(
    reporter: Reporter,
    setup: Setup,
    device: torch.device,
    processes: Processes,
    *,
    is_new: bool,
) -> None:
    """What a user should know before the first step."""
    if not processes.is_first:
        return
    spec, plan = setup.spec, setup.spec.plan
    where = str(device)
    if processes.size > 1:
        where = f"{device.type}, {processes.size} processes"
    if plan is None:
        reporter.warn(NOT_PRIVATE)
    else:
        result = claim(plan)
        warm = ""
        if plan.warm_releases:
            warm = f"warm start by {plan.warm_start} at sigma {plan.warm_sigma:.6g}, "
        reporter.note(
            f"plan: epsilon {result.epsilon_text} at delta {plan.delta:g} ({result.accountant}), "
            f"N = {plan.dataset_size:,} {plan.record}s, {warm}"
            f"expected batch {plan.expected_batch_size:g}, {plan.steps:,} steps, "
            f"sigma {plan.sigma:.6g}, C = {plan.clip_norm:g}, K = {plan.noise_multiplicity}, on {where}"
        )
        if spec.request.plan_file is not None:
            for origin, settings in spec.by_origin().items():
                values = ", ".join(f"{name} {value}" for name, value in settings.items())
                reporter.note(f"from {origin}: {values}")
        if spec.public_inputs and spec.request.data not in NAMED:
            reporter.note(
                "taken as known to everybody, and published: "
                f"{spec.public_inputs.words_for(plan.record)}"
            )
    if plan is not None and plan.record == "image" and setup.images.persons is not None:
        reporter.warn(
            "it is known whose the images are, but the claim is for one image: --unit person makes it for one person"
        )
    if is_new and (copies := duplicate_count(setup.images)):
        protected = "one file" if plan is None or plan.record == "image" else plan.unit
        reporter.warn(
            f"{copies} images are exact copies of others: the claim protects {protected}, not one picture"
        )


def _saved(folder: RunFolder, processes: Processes) -> tuple[dict[str, Tensor], RunState]:
    """What the first process reads, in all of them."""

    def read() -> tuple[dict[str, Tensor], Json]:
        tensors, state = folder.load_state()
        return tensors, state.to_json()

    tensors, state = processes.broadcast_tensors(read)
    return tensors, RunState.from_json(state)


def _publish(folder: RunFolder, setup: Setup, trainer: Trainer, device: torch.device) -> Json:
    """Write model, statement and samples, unless they are there; the statement as it is written."""
    model = _model(setup, trainer)
    if not folder.is_complete:
        with memory_errors("while the model was written and drawn from", _ELSEWHERE):
            save_model(folder.model, model)
            folder.write_statement(model.statement)
            draw_grid(model, folder.samples, device)
            folder.write_manifest()
    return model.statement.to_json()


def _draw_preview(folder: RunFolder, setup: Setup, trainer: Trainer, device: torch.device) -> None:
    """A grid from the averaged weights as they are; see `Previews`."""
    remark = f"Drawn after step {trainer.done:,} of {trainer.steps:,}."
    with memory_errors("while a preview was drawn", _ELSEWHERE):
        draw_grid(_model(setup, trainer), folder.preview(trainer.done), device, remark=remark)


def _model(setup: Setup, trainer: Trainer) -> Model:
    """What may be published of the run so far, with its claim."""
    spec = setup.spec
    dataset = spec.request.data if spec.request.data in NAMED else "custom"
    start = spec.start
    statement: AnyStatement
    if setup.ledger is None or spec.public_inputs is None:
        statement = non_private_statement(
            trainer.done, [dataset, *(start.trained_on if start else ())]
        )
    else:
        statement = private_statement(
            setup.ledger, spec.public_inputs, start.sha256 if start else None, setup.about
        )
    return Model(
        denoiser=trainer.averaged,
        config=spec.network,
        parameterisation=spec.settings.denoiser,
        classes=setup.images.classes,
        dataset=dataset,
        statement=statement,
    )
