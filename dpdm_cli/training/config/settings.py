"""What a training run is told, and where each value came from.

Flags override the configuration file, which overrides the preset, which overrides the defaults below. Presets are data:
see `presets/*.toml`. What a run takes from them are settings; what is known of the data, N above all, is not.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypedDict

from dpdm_cli.choices import Init, Parameterisation, Precision, Preset, Schedule, Unit, WarmStart
from dpdm_cli.data.named import NAMED
from dpdm_cli.errors import UsageError
from dpdm_cli.files import read_bytes
from dpdm_cli.privacy.plan import WARM_SHARE
from dpdm_cli.stored import LARGEST_SIDE

_LONGEST_TOML = 1 << 20  # bytes
PRESETS: tuple[Preset, ...] = typing.get_args(Preset)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Everything of the paper's Algorithm 1 that can be chosen.

    Attributes:
        epsilon, delta: the target of the claim.
        unit: what it protects, and a record is: image, or person with all of their images. N and B count records, and
            each of a record's K noisy copies is of one of its images at random.
        dataset_size: N, public; None takes a named set's published size, else that of a plan file, else counts the
            images if the count is declared to be public.
        batch_size: B, expected records a step.
        epochs, steps: how long; exactly one is used, steps when both are given.
        clip_norm: C.
        noise_multiplicity: K.
        accountant: prv, rdp or pld.
        warm_start: none, means or moments: what is released of each class before the first step.
        warm_share: of the budget, for the warm start.
        init: none or procedural: whether the weights start from a network of the package that was trained on images
            drawn by a program.
        image_size: side in pixels; None keeps the images' own.
        denoiser: edm, v, vp or ve.
        noise_mean, noise_std: of ln sigma in training; edm only.
        width, multipliers, blocks, attention, patch, embedding: the network, see `UNetConfig`. `attention` None puts it
            at the lowest resolution.
        learning_rate: of Adam.
        schedule: constant or cosine (to zero at the last step).
        warmup: steps of linear rise.
        ema: decay of the averaged weights.
        label_dropout: probability of training without the label.
        seed: of the network's initial weights; never of anything that protects privacy.
        precision: auto, float32, tf32 or bf16, for forward and backward; norms, sums and noise are wider.
        micro_batch: records at a time; 0 chooses. Changes speed, not the mechanism.
    """

    epsilon: float = 10.0
    delta: float = 1e-5
    unit: Unit = "image"
    dataset_size: int | None = None
    batch_size: int = 256
    epochs: int | None = None
    steps: int | None = None
    clip_norm: float = 1.0
    noise_multiplicity: int = 8
    accountant: str = "prv"
    warm_start: WarmStart = "none"
    warm_share: float = WARM_SHARE
    init: Init = "none"
    image_size: int | None = None
    denoiser: Parameterisation = "edm"
    noise_mean: float = -1.2
    noise_std: float = 1.2
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] | None = None
    patch: int = 1
    embedding: int = 128
    learning_rate: float = 3e-4
    schedule: Schedule = "constant"
    warmup: int = 0
    ema: float = 0.999
    label_dropout: float = 0.1
    seed: int = 0
    precision: Precision = "auto"
    micro_batch: int = 0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{name} is {getattr(self, name)!r}", f"choose one of {', '.join(choices)}"
                )
        for name in ("width", "blocks", "patch", "embedding", "batch_size", "noise_multiplicity"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, found {getattr(self, name)}")
        if not 1 <= (1 if self.image_size is None else self.image_size) <= LARGEST_SIDE:
            raise UsageError(
                f"image_size must be between 1 and {LARGEST_SIDE}, found {self.image_size}"
            )
        if not 0 <= self.seed < 1 << 63:
            raise UsageError(f"seed must be at least 0 and below 2^63, found {self.seed}")
        for name in ("warmup", "micro_batch"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative, found {getattr(self, name)}")
        if not self.multipliers or min(self.multipliers) < 1:
            raise UsageError(
                f"multipliers must be whole numbers above 0, found {list(self.multipliers)}"
            )
        if self.width % 4:
            raise UsageError(
                f"width must be a multiple of 4 (normalisation groups), found {self.width}"
            )
        for name, low, high in (("ema", 0.0, 1.0), ("label_dropout", 0.0, 1.0)):
            if not low <= getattr(self, name) < high:
                raise UsageError(
                    f"{name} must be in [{low:g}, {high:g}), found {getattr(self, name)}"
                )
        if not 0 < self.warm_share < 1:
            raise UsageError(f"warm_share must be above 0 and below 1, found {self.warm_share}")
        if not (math.isfinite(self.noise_mean) and 0 < self.noise_std < math.inf):
            raise UsageError(
                f"noise_mean and noise_std must be finite, noise_std above 0, "
                f"found {self.noise_mean} and {self.noise_std}"
            )
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UsageError(
                f"learning_rate must be finite and above 0, found {self.learning_rate}"
            )


class SettingOptions(TypedDict, total=False):
    """The settings as keywords of a function, see `TrainSettings`; None takes the configuration's or the preset's."""

    epsilon: float | None
    delta: float | None
    unit: Unit | None
    dataset_size: int | None
    batch_size: int | None
    epochs: int | None
    steps: int | None
    clip_norm: float | None
    noise_multiplicity: int | None
    accountant: str | None
    warm_start: WarmStart | None
    warm_share: float | None
    init: Init | None
    image_size: int | None
    denoiser: Parameterisation | None
    noise_mean: float | None
    noise_std: float | None
    width: int | None
    multipliers: tuple[int, ...] | None
    blocks: int | None
    attention: tuple[int, ...] | None
    patch: int | None
    embedding: int | None
    learning_rate: float | None
    schedule: Schedule | None
    warmup: int | None
    ema: float | None
    label_dropout: float | None
    seed: int | None
    precision: Precision | None
    micro_batch: int | None


FIELDS = {field.name: field for field in dataclasses.fields(TrainSettings)}
_TYPES = typing.get_type_hints(TrainSettings)
_CHOICES = {n: typing.get_args(t) for n, t in _TYPES.items() if typing.get_origin(t) is Literal}
_IN_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a word",
    tuple: "a list of whole numbers",
}


def merge(
    data: str,
    *,
    preset: str,
    settings_for: str | None = None,
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    budget: float | None = None,
) -> tuple[TrainSettings, dict[str, str]]:
    """The settings of a run and, by name, where each came from.

    Args:
        data: name of the data set or a path; a named set takes the entries of its name in the preset.
        preset: one of `PRESETS`.
        settings_for: take these entries of the preset instead, see `sets_in`. They are settings and nothing else: what
            is known of the data, N for one, does not depend on them.
        config: a TOML file with settings by name.
        flags: settings given explicitly; None values are ignored.
        budget: the epsilon whose entries of the preset are taken, where a plan fixes it; by default that of the
            settings.

    Raises:
        UsageError: an unknown preset, entry or setting, a value of another type or out of range, or a file that cannot
            be read or is not TOML.
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(FIELDS, "default")

    def overlay(layer: Mapping[str, Any], origin: str) -> None:
        if "epochs" in layer and "steps" not in layer:
            values.pop("steps", None)  # a later word on how long replaces the earlier one
        if "steps" in layer:
            values.pop("epochs", None)
        for name, value in layer.items():
            values[name] = _typed(name, value, origin)
            origins[name] = origin

    given = {name: value for name, value in (flags or {}).items() if value is not None}
    from_file = _read_toml(config) if config else {}
    epsilon = given.get("epsilon", from_file.get("epsilon", TrainSettings.epsilon))
    epsilon = epsilon if budget is None else budget
    entries = _entries_for(preset, data, settings_for)
    for layer, origin in _preset_layers(preset, entries, _typed("epsilon", epsilon, "flag")):
        overlay(layer, origin)
    if config:
        overlay(from_file, str(config))
    if "epochs" in given and "steps" in given:
        raise UsageError("both --epochs and --steps are given", "give one of them")
    overlay(given, "flag")
    return TrainSettings(**values), origins


def default_preset(device_type: str) -> Preset:
    """The preset for a device when none is named."""
    return "small" if device_type == "cpu" else "paper"


def preset_settings(
    preset: str, data: str, epsilon: float, settings_for: str | None = None
) -> TrainSettings:
    """A preset's settings for a data set and a budget, nothing overridden; see `merge`."""
    return merge(data, preset=preset, settings_for=settings_for, flags={"epsilon": epsilon})[0]


def where_started(preset: str) -> dict[str, Any]:
    """What a preset changes for images and networks that have a procedural start: settings by name, perhaps none."""
    changes = _preset(preset).get("started", {})
    return {name: _typed(name, value, f"preset {preset}") for name, value in changes.items()}


def where_large(preset: str, side: int) -> tuple[dict[str, Any], str]:
    """What a preset changes for images of so many pixels a side: settings by name, perhaps none, and their origin.

    Raises:
        UsageError: the preset is not made for images as large as these.
    """
    content = _preset(preset)
    largest = content.get("largest_side", LARGEST_SIDE)
    if side > largest:
        raise UsageError(
            f"the images have {side} pixels a side, and --preset {preset} is made for {largest}x{largest} at most",
            f"pass --image-size {largest}, or less: small images need fewer of them and less time. A network of your "
            "own is set by patch and width in --config",
        )
    reached = [int(first) for first in content.get("side", {}) if int(first) <= side]
    if not reached:
        return {}, ""
    origin = f"preset {preset}, from {max(reached)}x{max(reached)} pixels"
    changes = content["side"][str(max(reached))]
    return {name: _typed(name, value, origin) for name, value in changes.items()}, origin


def sets_in(preset: str) -> tuple[str, ...]:
    """The data sets a preset has entries of their own for."""
    return tuple(_preset(preset)["set"])


def published_size(name: str) -> int | None:
    """Images in the training split of a published set, also of those that are not named sets here."""
    if name in NAMED:
        return NAMED[name].train_size
    sizes: dict[str, int] = _preset("paper")["published_size"]
    return sizes.get(name)


def _preset(preset: str) -> dict[str, Any]:
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}", f"choose one of {', '.join(PRESETS)}")
    text = (resources.files(__package__) / "presets" / f"{preset}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _entries_for(preset: str, data: str, settings_for: str | None) -> str | None:
    """Whose entries of a preset a run takes, beside the general ones."""
    known = sets_in(preset)
    if settings_for is None:
        # By its name only a named set: a folder may be called anything.
        return data if data in NAMED and data in known else None
    if settings_for not in known:
        elsewhere = [other for other in PRESETS if settings_for in sets_in(other)]
        raise UsageError(
            f"the preset {preset} has no settings for {settings_for!r}",
            f"add --preset {elsewhere[0]}" if elsewhere else f"choose one of {', '.join(known)}",
        )
    return settings_for


def _preset_layers(
    preset: str, entries: str | None, epsilon: float
) -> list[tuple[dict[str, Any], str]]:
    """General entries, then those of a data set, then those of the nearest budget there."""
    content = _preset(preset)
    layers = [(content["every"], f"preset {preset}")]
    if entries is None:
        return layers
    own = dict(content["set"][entries])
    budgets = own.pop("epsilon", {})
    layers.append((own, f"preset {preset}, {entries}"))
    if budgets and epsilon > 0 and math.isfinite(epsilon):
        nearest = min(budgets, key=lambda key: abs(math.log(float(key) / epsilon)))
        layers.append((budgets[nearest], f"preset {preset}, {entries} at epsilon {nearest}"))
    return layers


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_bytes(path, _LONGEST_TOML).decode())
    except OSError as error:
        raise UsageError(f"{path}: cannot read the configuration: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from error


def _typed(name: str, value: Any, origin: str) -> Any:
    """`value` as the field's type; numbers widen, lists become tuples, nothing else is guessed."""
    if name not in FIELDS:
        raise UsageError(f"unknown setting {name!r} ({origin})", f"known: {', '.join(FIELDS)}")
    wanted = str if name in _CHOICES else _TYPES[name]
    options = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    for option in options:
        if value is None and option is types.NoneType:
            return None
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            if all(isinstance(item, int) and not isinstance(item, bool) for item in value):
                return tuple(value)
        elif (
            option in (int, float, str)
            and isinstance(value, option)
            and not isinstance(value, bool)
        ):
            return value
        elif option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
    kind = next(option for option in options if option is not types.NoneType)
    expected = _IN_WORDS[typing.get_origin(kind) or kind]
    raise UsageError(f"{name} is {value!r} ({origin}), expected {expected}")
