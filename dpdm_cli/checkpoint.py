"""Safetensors files that describe themselves and notice damage.

A file's header carries one JSON object: what it is, whatever its kind needs, and a SHA-256. Two
kinds: `model` may be published (averaged weights, network, statement), `state` may not (what resuming needs).
No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from dpdm_cli.data.class_names import check_classes
from dpdm_cli.data.named import NAMED
from dpdm_cli.diffusion.denoiser import PARAMETERISATIONS, Denoiser
from dpdm_cli.diffusion.gaussian_prior import GaussianPrior
from dpdm_cli.diffusion.unet import UNet, UNetConfig
from dpdm_cli.errors import DamagedFileError, DataError
from dpdm_cli.files import sha256_of, write_bytes

FORMAT = 1
CUSTOM = "custom"
"""What any set is called that is none of `NAMED`."""
_KEY = "dpdm"
_DIGEST = "sha256"
_PRIOR = "prior/"
_MOST_TENSORS = 10_000
_MOST_BYTES = 16 << 30
_MOST_OF_PRIOR = 1 << 10  # coefficients, and directions


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained denoiser and what is known about it.

    Attributes:
        denoiser: on the CPU, in evaluation mode.
        config: the network's shape.
        parameterisation: edm, v, vp or ve.
        classes: names in label order; empty for an unconditional model.
        dataset: the named set it was trained on, or `CUSTOM`.
        statement: the privacy claim.
        sha256: of the file.
    """

    denoiser: Denoiser
    config: UNetConfig
    parameterisation: str
    classes: tuple[str, ...]
    dataset: str
    statement: dict[str, Any]
    sha256: str = ""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.config.image_channels, self.config.image_size, self.config.image_size


def write_tensors(
    path: Path,
    tensors: dict[str, Tensor],
    kind: str,
    facts: dict[str, Any],
    *,
    private: bool = False,
) -> None:
    """Write tensors with their description; whole or not at all.

    Raises:
        ResourceError: the disk is full or not writable; an older file stays as it was.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"format": FORMAT, "kind": kind, **facts}
    text = _text({**header, _DIGEST: _digest(tensors, header)})
    write_bytes(path, safetensors.torch.save(tensors, metadata={_KEY: text}), private=private)


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of the given kind, checked before and after its tensors are loaded.

    Raises:
        DataError: no such file, or one of another kind.
        DamagedFileError: truncated, altered, of another format, or with values that aren't finite.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", "give the path of a model.safetensors")
    if not _may_be_safetensors(path):
        raise DamagedFileError(
            f"{path} is no {kind} file (safetensors)",
            f"give the path of a {kind}.safetensors; if this should be one, copy it again",
        )
    hint = "the file is not what was written: copy it again, or go back to an older one"
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise DataError(
                    f"{path}: a safetensors file, but not written by dpdm",
                    "give a model.safetensors of a run",
                )
            header = json.loads(metadata[_KEY])
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise DamagedFileError(f"{path}: unknown format {str(header)[:80]}", hint)
            if header.get("kind") != kind:
                raise DataError(
                    f"{path}: this is a {header.get('kind')} file, expected a {kind} file"
                )
            if metadata.keys() != {_KEY}:
                raise DamagedFileError(f"{path}: says more than dpdm writes", hint)
            names = list(file.keys())
            if len(names) > _MOST_TENSORS:
                raise DamagedFileError(
                    f"{path}: {len(names)} tensors are more than any model has", hint
                )
            tensors = {name: file.get_tensor(name) for name in names}
            is_ours = _text(header) == metadata[_KEY]  # no blanks, no key twice, no NaN
        if not _is_bare(path):
            raise DamagedFileError(f"{path}: says more than dpdm writes", hint)
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        raise DamagedFileError(f"{path}: damaged: {str(error).splitlines()[0]}", hint) from error
    written = header.pop(_DIGEST, None)
    if not is_ours or _digest(tensors, header) != written:
        raise DamagedFileError(f"{path}: damaged: its SHA-256 is not the one written", hint)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype.itemsize < 2:
            raise DamagedFileError(f"{path}: {name} is of {tensor.dtype}, as none of ours", hint)
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DamagedFileError(f"{path}: {name} holds values that are not finite", hint)
    return tensors, header


def save_model(path: Path, model: Model) -> None:
    """Write the publishable file: averaged weights, network, classes and statement."""
    tensors = dict(model.denoiser.network.state_dict())
    if prior := model.denoiser.prior:
        tensors |= {_PRIOR + name: tensor for name, tensor in prior.state_dict().items()}
    write_tensors(path, tensors, "model", _described(model))


def _described(model: Model) -> dict[str, Any]:
    """What a model's file says beside its weights."""
    prior = model.denoiser.prior
    return {
        "network": asdict(model.config),
        "parameterisation": model.parameterisation,
        "classes": list(model.classes),
        "dataset": model.dataset,
        "statement": model.statement,
        "prior": None
        if prior is None
        else {"coefficients": prior.low.size, "directions": prior.variances.shape[1]},
    }


def load_model(path: Path) -> Model:
    """Read a published file.

    Raises:
        DataError, DamagedFileError: see `read_tensors`; also when tensors and description disagree.
    """
    if path.is_dir() and (path / "model.safetensors").is_file():
        path = path / "model.safetensors"
    tensors, header = read_tensors(path, "model")
    try:
        shape: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in header["network"].items()
        }
        config = UNetConfig(**shape)
        parameterisation, statement = header["parameterisation"], header["statement"]
        classes, dataset = check_classes(header["classes"]), check_dataset(header["dataset"])
        of_prior = header["prior"]
        _check_shapes(path, config, of_prior, tensors)
        denoiser = Denoiser(
            UNet(config),
            PARAMETERISATIONS[parameterisation],
            _prior(config, of_prior),
            sees_prior=config.sees_prior,
        )
        if len(classes) != config.classes or not isinstance(statement, dict):
            raise ValueError("classes or statement do not fit the network")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFileError(f"{path}: its description is damaged: {str(error)[:200]}") from error
    _load(denoiser, tensors)
    denoiser.eval().requires_grad_(False)
    model = Model(
        denoiser=denoiser,
        config=config,
        parameterisation=parameterisation,
        classes=classes,
        dataset=dataset,
        statement=statement,
        sha256=sha256_of(path),
    )
    # Written anew, would it be the same? Then it says nothing else.
    anew = {"format": FORMAT, "kind": "model", **_described(model)}
    if other := [k for k in anew.keys() | header.keys() if _text(anew, k) != _text(header, k)]:
        raise DamagedFileError(
            f"{path}: its description is damaged: {min(other)[:80]!a} is not what dpdm writes there"
        )
    return model


def check_dataset(name: object) -> str:
    """What a set is called. Raises ValueError: it is none of `NAMED`, nor `CUSTOM`."""
    if not isinstance(name, str) or name not in (*NAMED, CUSTOM):
        raise ValueError(f"dataset is {str(name)[:80]!a}, no set that is known by name")
    return name


def _prior(config: UNetConfig, described: dict[str, int] | None) -> GaussianPrior | None:
    if described is None:
        return None
    shape = config.image_channels, config.image_size, config.image_size
    return GaussianPrior(shape, config.classes, described["coefficients"], described["directions"])


def _load(denoiser: Denoiser, tensors: dict[str, Tensor]) -> None:
    of_prior = {n.removeprefix(_PRIOR): t for n, t in tensors.items() if n.startswith(_PRIOR)}
    denoiser.network.load_state_dict({n: t for n, t in tensors.items() if not n.startswith(_PRIOR)})
    if denoiser.prior is not None:
        denoiser.prior.load_state_dict(of_prior)


def _check_shapes(
    path: Path,
    config: UNetConfig,
    of_prior: dict[str, int] | None,
    tensors: dict[str, Tensor],
) -> None:
    """Compare with the network and prior the description asks for, before any of their memory is allocated."""
    if max(config.channels * max(config.multipliers), config.embedding, config.classes) > 1 << 16:
        raise ValueError("layers wider than any network of ours")
    if of_prior is not None and not all(
        type(count) is int and 1 <= count <= _MOST_OF_PRIOR for count in of_prior.values()
    ):
        raise ValueError("a prior of another size than any of ours")
    with torch.device("meta"):
        expected = {name: _form(t) for name, t in UNet(config).state_dict().items()}
        if prior := _prior(config, of_prior):
            expected |= {_PRIOR + name: _form(t) for name, t in prior.state_dict().items()}
    if sum(4 * math.prod(s) for s, _ in expected.values()) > _MOST_BYTES:
        raise ValueError("larger than any network of ours")
    found = {name: _form(tensor) for name, tensor in tensors.items()}
    wrong = [n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n)]
    if wrong:
        name = min(wrong)
        raise DamagedFileError(
            f"{path}: {len(wrong)} tensors do not fit the network it describes, first {name}: "
            f"expected {_shown(expected.get(name))}, found {_shown(found.get(name))}",
            "the file was written for another network",
        )


def _may_be_safetensors(path: Path) -> bool:
    """Whether a JSON object begins where one must; what the system has against reading it is told later."""
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:
        return True


def _is_bare(path: Path) -> bool:
    """Whether the head of a safetensors file describes its tensors once each, in their order, and holds nothing else.

    The library ignores other keys there, repeated tensors, blanks and the order. It pads with at most 7 blanks.
    """
    with path.open("rb") as file:
        head = file.read(int.from_bytes(file.read(8), "little"))
    values = json.loads(head)
    described = {name: entry for name, entry in values.items() if name != "__metadata__"}
    compact = json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()
    starts = [entry["data_offsets"][0] for entry in described.values()]
    return (
        len(head) < len(compact) + 8
        and list(described) == sorted(described)
        and starts == sorted(starts)
        and all(list(entry) == ["dtype", "shape", "data_offsets"] for entry in described.values())
    )


def _text(values: dict[str, Any], *keys: str) -> str:
    """A description, or the values under some keys of it, as they are written."""
    shown = {key: values[key] for key in keys if key in values} if keys else values
    return json.dumps(shown, sort_keys=True, allow_nan=False)


def _form(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _shown(form: tuple[torch.Size, torch.dtype] | None) -> str:
    if form is None:
        return "none"
    shape, dtype = form
    return f"{tuple(shape)}" if dtype == torch.float32 else f"{tuple(shape)} of {dtype}"


def _digest(tensors: dict[str, Tensor], header: dict[str, Any]) -> str:
    """SHA-256 over the description, and over names, dtypes, shapes and bytes in the order of names."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
