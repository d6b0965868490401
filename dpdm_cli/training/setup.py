"""What a training run is before its first step, and the same in all its processes."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dpdm_cli.compute.distributed import Processes
from dpdm_cli.compute.launched import local_rank
from dpdm_cli.data import ImageSet
from dpdm_cli.data.class_names import check_new_classes
from dpdm_cli.data.named import NAMED
from dpdm_cli.diffusion.unet import UNetConfig
from dpdm_cli.errors import PrivacyError
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.plan_file import load_plan
from dpdm_cli.privacy.public_inputs import PublicInputs
from dpdm_cli.training.config.network import network_config
from dpdm_cli.training.config.planning import (
    check_batch_size,
    plan_run,
    read_plan,
    step_count,
    warm_start_of,
)
from dpdm_cli.training.config.public_facts import Stated, known_size, public_facts
from dpdm_cli.training.config.public_start import (
    PublicStart,
    check_start,
    chosen_start,
    read_public,
    with_start,
)
from dpdm_cli.training.config.settings import TrainSettings
from dpdm_cli.training.resuming import fingerprint, resumed_settings, resumed_stated


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A run that can begin, or go on.

    Attributes:
        data: what the user named.
        images: the private images.
        dataset_size: N.
        public_inputs: who says that N and the images' shape and classes are public; None for a run that is not private.
        stated: what was said of the images, beside the settings.
        settings: those of the run; K is the plan's.
        network: its shape.
        public: the model it starts from, if any.
        ledger: of its releases, with the plan; None for a run that is not private.
        salt, fingerprint: of the images, see `fingerprint`.
    """

    data: str
    images: ImageSet
    dataset_size: int
    public_inputs: PublicInputs | None
    stated: Stated
    settings: TrainSettings
    network: UNetConfig
    public: PublicStart | None
    ledger: Ledger | None
    salt: str
    fingerprint: str

    @property
    def plan(self) -> PrivacyPlan | None:
        """What the run may release; None for a run that is not private."""
        return self.ledger.plan if self.ledger else None

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.plan.steps if self.plan else step_count(self.dataset_size, self.settings)

    @property
    def sample_rate(self) -> float:
        """q, the probability of each image to be in a batch."""
        return self.plan.sample_rate if self.plan else self.settings.batch_size / self.dataset_size

    def facts(self) -> dict[str, Any]:
        """What all processes, and all who go on with the run, must agree on. A JSON object; private."""
        return {
            "data": self.data,
            "private": self.ledger is not None,
            "settings": asdict(self.settings),
            "dataset_size": self.dataset_size,
            "public_inputs": self.public_inputs.to_dict() if self.public_inputs else None,
            "stated": asdict(self.stated),
            "plan": self.plan.to_dict() if self.plan else None,
            "init_from": asdict(replace(self.public, weights={})) if self.public else None,
            "salt": self.salt,
            "fingerprint": self.fingerprint,
        }


def set_up(
    data: str,
    wanted: TrainSettings,
    origins: dict[str, str],
    preset: str,
    load: Callable[..., ImageSet],
    *,
    stated: Stated,
    private: bool,
    plan: Path | None,
    init_from: Path | None,
    saved: dict[str, Any] | None,
    device: torch.device,
    processes: Processes,
) -> Setup:
    """Load the images, choose the network, make the plan; in every process, and compare.

    Args:
        data: the images' name.
        wanted, origins, preset: the settings asked for, where each is from, and the preset they are over.
        load: gives the images, of `image_size`, `channels` and `classes` when they are passed.
        stated: what is said of the images, beside the settings.
        private, plan, init_from: as for `train`.
        saved: what the resume state says, to go on with that run.
        device: where it is to run.
        processes: that run it together.

    Raises:
        UsageError, DataError: no images, network or plan can be had from this.
        PrivacyError: the saved run was another one, or what is to be public is neither stated nor declared.
        DamagedFileError: the saved run, the plan or the public model is damaged.
        ResourceError: the processes are not told the same.
    """
    with processes.together():
        settings = wanted
        if saved is not None:
            settings = resumed_settings(saved, wanted, origins, data, private)
            stated = resumed_stated(saved, stated)
        if data in NAMED and processes.size > 1 and local_rank() == 0:
            load()  # downloads, before the others of this machine look
    with processes.together():
        images = load(
            image_size=settings.image_size, channels=stated.channels, classes=stated.classes
        )
        check_new_classes(images.classes, data)
        if local_rank() == 0:
            images.verify()
        if saved is None:
            settings, _ = with_start(
                settings,
                origins,
                preset,
                images,
                warm_start=warm_start_of(settings, plan) if private else "none",
                init_from=init_from,
            )
        network = network_config(images, settings)
        public = _public_start(init_from, network, settings.init, data if private else None, saved)
        dataset_size, inputs = _public_inputs(data, settings, images, stated, plan, private, saved)
        ledger = _budget(dataset_size, settings, plan, private, saved)
        check_start(settings.init, ledger.plan if ledger else None)
    if ledger is not None:
        settings = replace(settings, noise_multiplicity=ledger.plan.noise_multiplicity)
    salt = saved["salt"] if saved else processes.from_first(lambda: secrets.token_hex(16))
    with processes.together():
        found = fingerprint(images, salt, saved)
    setup = Setup(
        data=data,
        images=images,
        dataset_size=dataset_size,
        public_inputs=inputs,
        stated=stated,
        settings=settings,
        network=network,
        public=public,
        ledger=ledger,
        salt=salt,
        fingerprint=found,
    )
    told = json.dumps([setup.facts(), device.type], sort_keys=True)
    processes.check_same(
        hashlib.sha256(told.encode()).hexdigest(),
        "the images, settings or kind of device",
        "give every machine the same files and the same command",
    )
    return setup


def _public_inputs(
    data: str,
    settings: TrainSettings,
    images: ImageSet,
    stated: Stated,
    plan: Path | None,
    private: bool,
    saved: dict[str, Any] | None,
) -> tuple[int, PublicInputs | None]:
    """N and, unless the run is not private, who says what is public: when it was started, see `public_facts`."""
    if not private:
        size = known_size(data, settings)
        return len(images.images) if size is None else size, None
    if saved is not None:
        return saved["dataset_size"], PublicInputs.from_dict(saved.get("public_inputs"))
    planned = None if plan is None else load_plan(plan).dataset_size
    return public_facts(data, images, settings, stated, planned)


def _budget(
    dataset_size: int,
    settings: TrainSettings,
    plan: Path | None,
    private: bool,
    saved: dict[str, Any] | None,
) -> Ledger | None:
    """The ledger, unless the run is not private: that of a resumed run, or a new one.

    Raises:
        PrivacyError: a resumed run was started under another plan.
        UsageError, DamagedFileError: the batch is larger than N, no plan can be made, or what is named is none.
    """
    if not private:
        check_batch_size(dataset_size, settings)
        return None
    if saved is None:
        return Ledger(plan_run(dataset_size, settings, plan))
    before = PrivacyPlan.from_dict(saved["plan"])
    if plan is not None and read_plan(plan, dataset_size) != before:
        raise PrivacyError(
            f"{plan} is not the plan this run was started under", "resume without --plan"
        )
    return Ledger.from_dict(before, saved["ledger"])


def _public_start(
    path: Path | None,
    network: UNetConfig,
    init: str,
    private_set: str | None,
    saved: dict[str, Any] | None,
) -> PublicStart | None:
    """The public model to start from; for a resumed run, that it was started from, without its weights.

    Raises:
        PrivacyError: a resumed run was started from another one; or see `read_public`.
        UsageError, DataError, DamagedFileError: see `chosen_start`.
    """
    if saved is None:
        return chosen_start(path, init, network, private_set)
    found = None if path is None else read_public(path, network, private_set)
    before = saved.get("init_from")
    if found is not None and (before is None or found.sha256 != before["sha256"]):
        raise PrivacyError(
            f"{path} is not what this run was started from", "resume without --init-from"
        )
    return None if before is None else PublicStart(**before)
