"""Safetensors files that describe themselves and notice damage.

A file's header carries one JSON object: what it is, whatever its kind needs, and a SHA-256. Two
kinds: `model` may be published (averaged weights, network, statement), `state` may not (what resuming needs).
No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
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
from dpdm_cli.errors import DamagedFileError, DataError, PrivacyError
from dpdm_cli.files import MODEL, refuse_samples, sha256_of, write_bytes
from dpdm_cli.privacy.statement import AnyStatement, read_statement
from dpdm_cli.stored import Json, parse_json, understood

FORMAT = 1
CUSTOM = "custom"
"""The name of any set that is not in `NAMED`."""
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
    statement: AnyStatement
    sha256: str = ""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.config.image_channels, self.config.image_size, self.config.image_size


def write_tensors(
    path: Path,
    tensors: dict[str, Tensor],
    kind: str,
    facts: Mapping[str, object],
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


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], Json]:
    """Read tensors and description of a file of the given kind, checked before and after its tensors are loaded.

    Raises:
        DataError: no such file, or one of another kind.
        DamagedFileError: truncated, altered, of another format, or with values that aren't finite.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", "give the path of a model.safetensors")
    if not _may_be_safetensors(path):
        raise DamagedFileError(
            f"{path} is not a {kind} file (safetensors)",
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
            header = parse_json(metadata[_KEY], f"{path}: its description", hint=hint)
            if header.get("format") != FORMAT:
                raise DamagedFileError(f"{path}: unknown format {str(header)[:80]}", hint)
            if header.get("kind") != kind:
                raise DataError(
                    f"{path}: this is a {header.get('kind')} file, expected a {kind} file",
                    f"give a {kind}.safetensors of a run",
                )
            if metadata.keys() != {_KEY}:
                raise DamagedFileError(f"{path}: says more than dpdm writes", hint)
            names = list(file.keys())
            if len(names) > _MOST_TENSORS:
                raise DamagedFileError(
                    f"{path}: {len(names)} tensors are more than any model has", hint
                )
            tensors = {name: file.get_tensor(name) for name in names}
            is_ours = _text(header) == metadata[_KEY]  # no blanks, no other order
        if not _is_bare(path):
            raise DamagedFileError(f"{path}: says more than dpdm writes", hint)
    except (SafetensorError, ValueError, OSError) as error:
        raise DamagedFileError(f"{path}: damaged: {str(error).splitlines()[0]}", hint) from error
    written = header.pop(_DIGEST, None)
    if not is_ours or _digest(tensors, header) != written:
        raise DamagedFileError(f"{path}: damaged: its SHA-256 is not the one written", hint)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype.itemsize < 2:
            raise DamagedFileError(f"{path}: {name} is of {tensor.dtype}, as none of ours", hint)
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DamagedFileError(f"{path}: {name} holds values that are not finite", hint)
    return tensors, {
        name: value for name, value in header.items() if name not in ("format", "kind")
    }


def save_model(path: Path, model: Model) -> None:
    """Write the publishable file: averaged weights, network, classes and statement."""
    tensors = dict(model.denoiser.network.state_dict())
    if prior := model.denoiser.prior:
        tensors |= {_PRIOR + name: tensor for name, tensor in prior.state_dict().items()}
    described = _Description(
        network=model.config,
        parameterisation=model.parameterisation,
        classes=model.classes,
        dataset=model.dataset,
        statement=model.statement,
        prior=_PriorShape(prior.low.size, prior.variances.shape[1]) if prior else None,
    )
    write_tensors(path, tensors, "model", described.to_json())


@dataclass(frozen=True)
class _PriorShape:
    coefficients: int
    directions: int

    def __post_init__(self) -> None:
        if not all(1 <= count <= _MOST_OF_PRIOR for count in (self.coefficients, self.directions)):
            raise ValueError("a prior of another size than any of ours")


@dataclass(frozen=True, kw_only=True)
class _Description:
    """What a model's file says beside its weights."""

    network: UNetConfig
    parameterisation: str
    classes: tuple[str, ...]
    dataset: str
    statement: AnyStatement
    prior: _PriorShape | None

    def __post_init__(self) -> None:
        config = self.network
        if len(self.classes) != config.classes:
            raise ValueError("classes do not fit the network")
        if max(config.channels * max(config.multipliers), config.embedding) > 1 << 16:
            raise ValueError("layers wider than any network of ours")

    def to_json(self) -> Json:
        return {
            "network": asdict(self.network),
            "parameterisation": self.parameterisation,
            "classes": list(self.classes),
            "dataset": self.dataset,
            "statement": self.statement.to_json(),
            "prior": self.prior and asdict(self.prior),
        }

    @classmethod
    def from_json(cls, values: Json) -> _Description:
        return understood(
            cls,
            values,
            "its description",
            parameterisation=lambda name: PARAMETERISATIONS[name] and name,
            classes=lambda names: check_classes([*names] if isinstance(names, list) else [None]),
            dataset=check_dataset,
            statement=read_statement,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image, (C, H, W)."""
        config = self.network
        return config.image_channels, config.image_size, config.image_size

    @property
    def gaussian_prior(self) -> GaussianPrior | None:
        """One of the right shape, without its values."""
        if self.prior is None:
            return None
        return GaussianPrior(self.shape, self.network.classes, **asdict(self.prior))


def load_model(path: Path) -> Model:
    """Read a published file.

    Raises:
        DataError, DamagedFileError: see `read_tensors`; also when tensors and description disagree.
    """
    refuse_samples(path)
    if path.is_dir():
        path = path / MODEL
    tensors, facts = read_tensors(path, "model")
    try:
        described = _Description.from_json(facts)
        config = described.network
        _check_shapes(path, described, tensors)
        denoiser = Denoiser(
            UNet(config),
            PARAMETERISATIONS[described.parameterisation],
            described.gaussian_prior,
            sees_prior=config.sees_prior,
        )
    except (DamagedFileError, PrivacyError) as error:
        if str(path) in error.message:
            raise
        raise type(error)(f"{path}: {error.message}", error.hint) from error
    except (TypeError, ValueError) as error:
        raise DamagedFileError(f"{path}: its description is damaged: {str(error)[:200]}") from error
    _load(denoiser, tensors)
    denoiser.eval().requires_grad_(False)
    return Model(
        denoiser=denoiser,
        config=config,
        parameterisation=described.parameterisation,
        classes=described.classes,
        dataset=described.dataset,
        statement=described.statement,
        sha256=sha256_of(path),
    )


def dataset_in_words(name: str) -> str:
    """What a set is called in a sentence."""
    return "images that are not published" if name == CUSTOM else name


def check_dataset(name: object) -> str:
    """What a set is called. Raises ValueError: it is neither in `NAMED` nor `CUSTOM`."""
    if not isinstance(name, str) or name not in (*NAMED, CUSTOM):
        raise ValueError(f"dataset is {str(name)[:80]!a}, no set that is known by name")
    return name


def _load(denoiser: Denoiser, tensors: dict[str, Tensor]) -> None:
    of_prior = {n.removeprefix(_PRIOR): t for n, t in tensors.items() if n.startswith(_PRIOR)}
    denoiser.network.load_state_dict({n: t for n, t in tensors.items() if not n.startswith(_PRIOR)})
    if denoiser.prior is not None:
        denoiser.prior.load_state_dict(of_prior)


def _check_shapes(path: Path, described: _Description, tensors: dict[str, Tensor]) -> None:
    """Compare with the network and prior the description asks for, before any of their memory is allocated."""
    with torch.device("meta"):
        expected = {n: _form(t) for n, t in UNet(described.network).state_dict().items()}
    if prior := described.prior:
        forms = GaussianPrior.forms(described.shape, described.network.classes, **asdict(prior))
        expected |= {_PRIOR + n: (torch.Size(form), torch.float32) for n, form in forms.items()}
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
    values = parse_json(head, f"{path}: its head")
    described: Any = {n: entry for n, entry in values.items() if n != "__metadata__"}
    compact = json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()
    starts = [entry["data_offsets"][0] for entry in described.values()]
    return (
        len(head) < len(compact) + 8
        and list(described) == sorted(described)
        and starts == sorted(starts)
        and all(list(entry) == ["dtype", "shape", "data_offsets"] for entry in described.values())
    )


def _text(values: Mapping[str, object]) -> str:
    """A description as it is written."""
    return json.dumps(values, sort_keys=True, allow_nan=False)


def _form(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _shown(form: tuple[torch.Size, torch.dtype] | None) -> str:
    if form is None:
        return "none"
    shape, dtype = form
    return f"{tuple(shape)}" if dtype == torch.float32 else f"{tuple(shape)} of {dtype}"


def _digest(tensors: dict[str, Tensor], header: Mapping[str, object]) -> str:
    """SHA-256 over the description, and over names, dtypes, shapes and bytes in the order of names."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
