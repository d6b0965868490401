"""What a network starts from: nothing, a model of public images, or images drawn by a program.

A model of public images costs the user's word that they are public. The network that ships with this package, which
`examples/pretraining` makes anew, has seen no data. Its input includes a warm start's estimate, so it needs one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from dpdm_cli.checkpoint import load_model, read_tensors
from dpdm_cli.data import ImageSet
from dpdm_cli.data.named import NAMED
from dpdm_cli.diffusion.unet import UNetConfig
from dpdm_cli.errors import PrivacyError, UsageError
from dpdm_cli.files import expanded, sha256_of
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.statement import Statement
from dpdm_cli.stored import Json, understood
from dpdm_cli.training.config.network import network_config
from dpdm_cli.training.config.planning import asked_for
from dpdm_cli.training.config.request import RunRequest
from dpdm_cli.training.config.settings import TrainSettings, where_started

_OF_CLASSES = "classes."
_MAY_DIFFER = {"classes", "image_size"}
_SHIPPED = {(1, 2): "procedural-grey.safetensors", (1, 4): "procedural-grey-4.safetensors"}
"""By number of colours and patch."""


@dataclass(frozen=True)
class PublicStart:
    """Weights to start from.

    Attributes:
        sha256: of their file.
        trained_on: the named sets behind them, and "custom" for other images.
        weights: by name, those that fit; the classes' embeddings only where there are as many.
    """

    sha256: str
    trained_on: tuple[str, ...]
    weights: dict[str, Tensor]

    def to_json(self) -> Json:
        """All but the weights, for the run's own state."""
        return {"sha256": self.sha256, "trained_on": list(self.trained_on), "weights": {}}

    @classmethod
    def from_json(cls, values: object) -> PublicStart:
        """What `to_json` described. Raises DamagedFileError: it did not."""
        return understood(cls, values, "the public start")


def chosen_start(
    init_from: Path | None, init: str, shape: UNetConfig, private_set: str | None
) -> PublicStart | None:
    """What a network of `shape` starts from, if anything; see `read_public` and `read_procedural`.

    Raises:
        UsageError: two starts are named.
        PrivacyError, DataError, DamagedFileError: see there.
    """
    if init_from is not None and init != "none":
        raise UsageError(
            f"--init-from {init_from} and --init {init} are two starts", "choose one of them"
        )
    if init_from is not None:
        return read_public(init_from, shape, private_set)
    return read_procedural(shape) if init == "procedural" else None


def with_start(
    request: RunRequest, images: ImageSet, warm_start: str
) -> tuple[TrainSettings, Mapping[str, str]]:
    """The settings and their origins with what a preset changes where there is a procedural start.

    As they were, where another start or none was asked for, or these images and this network have none.

    Args:
        request: what was asked for.
        images: their size, colours and classes count.
        warm_start: of the run; `none` without privacy.

    Raises:
        UsageError: no network can be had for these images.
    """
    settings, asked = request.settings, asked_for(request.origins)
    changes = {n: v for n, v in where_started(request.preset).items() if n not in asked}
    elsewhere = request.init_from is not None or warm_start == "none"
    if not changes or elsewhere or ("init" in asked and settings.init == "none"):
        return settings, request.origins
    changed = replace(settings, **changes)
    try:
        read_procedural(network_config(images, changed))
    except UsageError:
        return settings, request.origins
    origin = f"preset {request.preset}, where there is a procedural start"
    return changed, {**request.origins, **dict.fromkeys(changes, origin)}


def check_start(init: str, plan: PrivacyPlan | None) -> None:
    """Raise `UsageError` when the run has no warm start for a procedural one to go on from."""
    if init == "procedural" and not (plan and plan.warm_releases):
        raise UsageError(
            "a procedural start needs a warm start, and this run has none",
            "add --warm-start moments, or --init none",
        )


def shipped_start(channels: int, patch: int) -> Path:
    """Where a network lies that was trained on images drawn by a program, with so many colours and such patches.

    Raises:
        UsageError: there is none.
    """
    if (channels, patch) not in _SHIPPED:
        what = f"with patches of {patch}x{patch}" if channels == 1 else "for colour images"
        raise UsageError(f"there is no procedural start {what} yet", "leave out --init procedural")
    return Path(str(resources.files(__package__))) / "starts" / _SHIPPED[channels, patch]


def read_procedural(shape: UNetConfig) -> PublicStart:
    """The procedural start for a network of `shape`. All classes begin alike: nothing is known of any.

    Raises:
        UsageError: there is none for these colours, patches or this network.
        DataError, DamagedFileError: the package is not whole.
    """
    path = shipped_start(shape.image_channels, shape.patch)
    weights, facts = read_tensors(path, "start")
    network = understood(UNetConfig, facts.get("network"), str(path))
    for name, ours in asdict(shape).items():
        theirs = getattr(network, name)
        if name not in _MAY_DIFFER and theirs != ours:
            raise UsageError(
                f"the procedural start is a network with {name} = {theirs}, this run's has {ours}",
                "leave out --init procedural, or take the network of --preset small",
            )
    if shape.classes:
        weights["classes.weight"] = torch.zeros(shape.classes + 1, shape.channels)
    return PublicStart(sha256=sha256_of(path), trained_on=(), weights=weights)


def read_public(path: Path, shape: UNetConfig, private_set: str | None) -> PublicStart:
    """The model at `path`, for a network of `shape`.

    Args:
        path: a model file.
        shape: of the network that is to start from it.
        private_set: what that is to be trained on with privacy, as the user names it; None without privacy.

    Raises:
        PrivacyError: it was trained with privacy: what it cost would have to be counted, and is not; or without, on
            the very set that is to be protected, itself or what it was started from.
        UsageError: its network is another one.
        DataError, DamagedFileError: see `load_model`.
    """
    model = load_model(expanded(path))
    if isinstance(model.statement, Statement):
        raise PrivacyError(
            f"{path} was trained on private images: its budget would add to this run's",
            "start from a model of public images, trained with --non-private",
        )
    sets = {model.dataset, *model.statement.trained_on}
    trained_on = {name if name in NAMED else "custom" for name in sets}
    if private_set in trained_on:
        raise PrivacyError(
            f"{path} was trained without privacy on {private_set}, whose images this run is to protect",
            "start from a model of other images, which are public",
        )
    ours, theirs = asdict(shape), asdict(model.config)
    other = [name for name in ours if ours[name] != theirs[name] and name not in _MAY_DIFFER]
    if other:
        name = other[0]
        raise UsageError(
            f"{path}: its network has {name} = {theirs[name]}, this run's {ours[name]}",
            "train both with the same preset and settings",
        )
    weights = model.denoiser.network.state_dict()
    if ours["classes"] != theirs["classes"]:
        weights = {k: v for k, v in weights.items() if not k.startswith(_OF_CLASSES)}
    return PublicStart(sha256=model.sha256, trained_on=tuple(sorted(trained_on)), weights=weights)
