"""What a training run is before its first step, and the same in all its processes."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from dpdm_cli import __version__
from dpdm_cli.compute.distributed import Processes
from dpdm_cli.compute.launched import local_rank
from dpdm_cli.data import ImageSet
from dpdm_cli.data.named import NAMED
from dpdm_cli.errors import PrivacyError
from dpdm_cli.privacy.accounting.claims import check_plan_file
from dpdm_cli.privacy.circumstances import NOTHING_KNOWN, Circumstances, today
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.stored import json_digest
from dpdm_cli.training.config.network import network_config
from dpdm_cli.training.config.planning import check_planned_size
from dpdm_cli.training.config.public_start import read_public
from dpdm_cli.training.config.request import RunRequest
from dpdm_cli.training.config.run_spec import RunSpec, resolve
from dpdm_cli.training.folder.resuming import fingerprint, resumed_settings, resumed_stated
from dpdm_cli.training.folder.run_state import RunState
from dpdm_cli.training.records import people_in


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A run that can begin or continue.

    Attributes:
        spec: what it is.
        images: the private images.
        ledger: of its releases, with the plan; None for a run that is not private.
        salt, fingerprint: of the images, see `fingerprint`.
        about: what the run notes of itself, this process included.
    """

    spec: RunSpec
    images: ImageSet
    ledger: Ledger | None
    salt: str
    fingerprint: str
    about: Circumstances

    def state(self) -> RunState:
        """What all processes, and all who go on with the run, must agree on; private."""
        spec = self.spec
        return RunState(
            data=spec.request.data,
            settings=spec.settings,
            dataset_size=spec.dataset_size,
            public_inputs=spec.public_inputs,
            stated=spec.request.stated,
            init_from=spec.start,
            salt=self.salt,
            fingerprint=self.fingerprint,
            done=0,
            ledger=self.ledger,
            about=self.about,
        )


def set_up(
    request: RunRequest,
    load: Callable[..., ImageSet],
    *,
    saved: RunState | None,
    device: torch.device,
    processes: Processes,
) -> Setup:
    """Load the images and resolve the run; in every process, and compare.

    Args:
        request: what was asked for.
        load: gives the images, of `image_size`, `channels` and `classes` when they are passed, read as `reading` says.
        saved: what the resume state says, to go on with that run.
        device: where it is to run.
        processes: that run it together.

    Raises:
        UsageError, DataError, PrivacyError, DamagedFileError: see `resolve`; the saved run was another one.
        ResourceError: the processes are not told the same.
    """
    with processes.together():
        if saved is not None:
            request = replace(
                request,
                settings=resumed_settings(
                    saved, request.settings, dict(request.origins), request.data, request.private
                ),
                stated=resumed_stated(saved.stated, request.stated),
            )
        if request.data in NAMED and processes.size > 1 and local_rank() == 0:
            load()  # downloads, before the others of this machine look
    with processes.together():
        images = load(
            image_size=request.settings.image_size,
            channels=request.stated.channels,
            classes=request.stated.classes,
            reading=request.stated.reading,
        )
        if local_rank() == 0:
            images.verify()
        if saved is None:
            spec = resolve(request, images)
            ledger = Ledger(spec.plan) if spec.plan else None
        else:
            spec = _restored(request, images, saved)
            ledger = saved.ledger
            if ledger is not None:
                ledger.check_chain()
    salt = saved.salt if saved else processes.broadcast(lambda: secrets.token_hex(16))
    with processes.together():
        found = fingerprint(images, salt, saved)
    day = processes.broadcast(today)  # which may end between two processes
    about = saved.about if saved else NOTHING_KNOWN
    if saved is None or saved.done < spec.steps:
        about = about.went_on(__version__, device.type, day)
    setup = Setup(
        spec=spec, images=images, ledger=ledger, salt=salt, fingerprint=found, about=about
    )
    processes.check_same(
        json_digest([setup.state().to_json(), device.type]),
        "the images, settings or kind of device",
        "give every machine the same files and the same command",
    )
    return setup


def _restored(request: RunRequest, images: ImageSet, saved: RunState) -> RunSpec:
    """The run as it was started, with its plan and public figures of then.

    Args:
        request: with the settings it was started with; a plan or a public model, if named, are those of then.
        images: give the network's shape.
        saved: what the resume state says.

    Raises:
        PrivacyError: it was started under another plan, or from another model.
        UsageError, DataError, DamagedFileError: what is named is none, or the state is damaged.
    """
    network = network_config(images, request.settings)
    people_in(images, request.settings.unit)
    plan = saved.ledger.plan if saved.ledger else None
    if plan is not None and (file := request.plan_file) is not None:
        named = check_plan_file(file)[0]
        check_planned_size(file, named, saved.dataset_size)
        if named != plan:
            raise PrivacyError(
                f"{file} is not the plan this run was started under", "resume without --plan"
            )
    if (path := request.init_from) is not None:
        model = read_public(path, network, request.data if request.private else None)
        if saved.init_from is None or model.sha256 != saved.init_from.sha256:
            raise PrivacyError(
                f"{path} is not what this run was started from", "resume without --init-from"
            )
    return RunSpec(
        request=request,
        settings=request.settings,
        origins=request.origins,
        dataset_size=saved.dataset_size,
        public_inputs=saved.public_inputs,
        network=network,
        start=saved.init_from,
        plan=plan,
    )
