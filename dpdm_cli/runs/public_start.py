"""Start from a network that was trained on public images. Its only cost is the user's word that they are public."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from dpdm_cli.data.named import NAMED
from dpdm_cli.diffusion.unet import UNetConfig
from dpdm_cli.errors import PrivacyError, UsageError
from dpdm_cli.runs.checkpoint import load_model

_OF_CLASSES = "classes."
_MAY_DIFFER = {"classes", "image_size"}


@dataclass(frozen=True)
class PublicStart:
    """A public model.

    Attributes:
        sha256: of its file.
        trained_on: the named sets behind it, and "custom" for other images.
        weights: by name, those that fit; the classes' embeddings only where there are as many.
    """

    sha256: str
    trained_on: list[str]
    weights: dict[str, Tensor]


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
    model = load_model(path.expanduser())
    if model.statement.get("private"):
        raise PrivacyError(
            f"{path} was trained on private images: its budget would add to this run's",
            "start from a model of public images, trained with --non-private",
        )
    before = model.statement.get("trained_on")
    sets = [model.dataset, *(before if isinstance(before, list) else [])]
    trained_on = {name if str(name) in NAMED else "custom" for name in sets}
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
    return PublicStart(sha256=model.sha256, trained_on=sorted(trained_on), weights=weights)
