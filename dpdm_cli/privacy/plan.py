"""The one set of numbers that sampler, clip, noise, divisor and accountant are all built from.

Everything in a plan is public: a figure the user states or a preset carries. It knows no data, no
accountant and no torch; what its numbers cost in epsilon is the business of `accounting`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import numbers
import operator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from dpdm_cli.errors import DamagedFileError, PrivacyError, UsageError
from dpdm_cli.privacy.units import UNITS, record_of
from dpdm_cli.stored import Json, check_keys

ADJACENCY = "add-or-remove-one"
ACCOUNTANTS = ("prv", "rdp", "pld")

WARM_STARTS = {"none": 0, "means": 1, "moments": 2}
"""How a run may begin, and how many noisy sums over all images each way releases."""

WARM_SHARE = 0.1
"""Of the budget, for a warm start; a public choice."""

LARGEST_INTEGER = 10**9
SMALLEST_CLIP, LARGEST_CLIP = 1e-12, 1e12


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """A subsampled Gaussian mechanism, repeated: DP-SGD as Algorithm 1 of the DPDM paper runs it.

    Each of `steps` steps includes every record independently with probability `sample_rate`, clips
    one gradient per record to `clip_norm`, adds N(0, (sigma * clip_norm)^2) to every coordinate of
    the sum and divides by `divisor`. Neighbouring data sets differ in one record (`adjacency`): an image, or a person
    with all of their images (`unit`).

    A warm start comes before the first step: sums over all records, to each of which one record contributes a vector
    of norm at most 1, released with N(0, warm_sigma^2) on every coordinate.

    Attributes:
        dataset_size: N, the public number of records; read off the private data only where that is declared public.
        expected_batch_size: B, the expected number of records in a step; at most N.
        steps: number of noisy steps, at least 1.
        sigma: standard deviation of the noise in units of `clip_norm`.
        delta: of the (epsilon, delta) claim; below 1/N.
        clip_norm: C, the largest L2 norm of one record's contribution.
        noise_multiplicity: K, noise draws of the diffusion loss per record, each on an image of the record;
            averaged before the clip, so that it costs nothing.
        accountant: which accountant the claim is asked from: prv, rdp or pld.
        warm_start: none, means or moments.
        warm_sigma: standard deviation of the noise on each sum of the warm start; None without one.
        unit: what a record is, one of `UNITS`.

    Raises:
        UsageError: a field that is not a number of its kind or is out of range; a warm start without its noise.
        PrivacyError: delta at or above 1/N, or the `gdp` accountant.
    """

    dataset_size: int
    expected_batch_size: float
    steps: int
    sigma: float
    delta: float
    clip_norm: float = 1.0
    noise_multiplicity: int = 1
    accountant: str = "prv"
    warm_start: str = "none"
    warm_sigma: float | None = None
    unit: str = UNITS[0]

    def __post_init__(self) -> None:
        for name in ("dataset_size", "steps", "noise_multiplicity"):
            self._set(name, positive_integer(name, getattr(self, name)))
        for name in ("expected_batch_size", "sigma", "delta", "clip_norm"):
            self._set(name, positive_number(name, getattr(self, name)))
        if check_warm_start(self.warm_start):
            self._set("warm_sigma", positive_number("warm_sigma", self.warm_sigma))
        elif self.warm_sigma is not None:
            raise UsageError(f"warm_sigma is {self.warm_sigma!r}, but there is no warm start")
        if self.unit not in UNITS:
            raise UsageError(f"unknown unit {self.unit!r}", f"choose one of {', '.join(UNITS)}")
        if not SMALLEST_CLIP <= self.clip_norm <= LARGEST_CLIP:
            raise UsageError(
                f"clip_norm must be between {SMALLEST_CLIP:g} and {LARGEST_CLIP:g}, found {self.clip_norm:g}: sums "
                "are computed in single precision",
                "give clip_norm near the norm of a gradient, 1 for example",
            )
        if self.expected_batch_size > self.dataset_size:
            raise UsageError(
                f"expected_batch_size is {self.expected_batch_size:g}, more than the "
                f"{self.dataset_size} {self.record}s there are: the sampling rate would pass 1",
                "choose a batch size of at most the data set's size",
            )
        check_delta(self.delta, self.dataset_size, self.record)
        check_accountant(self.accountant)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def sample_rate(self) -> float:
        """q = B / N, the probability that a step includes a given record."""
        return self.expected_batch_size / self.dataset_size

    @property
    def divisor(self) -> float:
        """What the noisy sum is divided by: the public B, never the batch that was drawn."""
        return self.expected_batch_size

    @property
    def warm_releases(self) -> int:
        """Sums that the warm start releases; they come before the steps."""
        return WARM_STARTS[self.warm_start]

    @property
    def releases(self) -> int:
        """Everything the plan pays for: the sums of the warm start, then the steps."""
        return self.warm_releases + self.steps

    def parts(self, first: int = 0, last: int | None = None) -> list[tuple[float, float, int]]:
        """Releases `first` up to `last` (all by default) as (q, noise multiplier, how often), for an accountant."""
        end = self.releases if last is None else last
        warm = max(0, min(end, self.warm_releases) - first)
        steps = max(0, end - max(first, self.warm_releases))
        found = [(self.sample_rate, self.sigma, steps)] if steps else []
        if warm:
            assert self.warm_sigma is not None
            found.append((1.0, self.warm_sigma, warm))
        return found

    @property
    def adjacency(self) -> str:
        """The neighbouring relation of the claim."""
        return ADJACENCY

    @property
    def record(self) -> Literal["image", "person"]:
        """What is drawn, clipped and counted, in a word: image or person."""
        return record_of(self.unit)

    def to_dict(self) -> Json:
        """The fields, with the sampling rate and adjacency that follow from them."""
        return {
            **dataclasses.asdict(self),
            "sample_rate": self.sample_rate,
            "adjacency": self.adjacency,
        }

    @classmethod
    def from_dict(cls, values: object) -> PrivacyPlan:
        """The plan that `to_dict` described.

        Raises:
            DamagedFileError: missing or extra keys, values out of range, derived values that do
                not follow from the fields.
            PrivacyError: as for the constructor.
        """
        if not isinstance(values, dict):
            raise DamagedFileError(f"a plan is a JSON object, not {type(values).__name__}")
        fields = {field.name for field in dataclasses.fields(cls)}
        check_keys(values, fields | {"sample_rate", "adjacency"}, "the plan")
        try:
            plan = cls(**{name: values[name] for name in fields})
        except UsageError as error:
            raise DamagedFileError(f"the plan is not usable: {error.message}") from error
        for name in ("sample_rate", "adjacency"):
            if values[name] != getattr(plan, name):
                raise DamagedFileError(
                    f"the plan says {name} = {values[name]!r}, but its other figures "
                    f"give {getattr(plan, name)!r}",
                    "the plan was edited by hand or damaged: make it again with `dpdm calibrate`",
                )
        return plan

    def digest(self) -> str:
        """SHA-256 (hex) of the plan as canonical JSON: equal if and only if the plans are equal."""
        text = json.dumps(
            self.to_dict(),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=True,
            allow_nan=False,
        )
        return hashlib.sha256(text.encode("ascii")).hexdigest()


def steps_for_epochs(dataset_size: int, batch_size: float, epochs: int) -> int:
    """floor(epochs * N / B) in exact arithmetic, at least 1.

    Floating point would sometimes lose a step: int(300 / (1 / n)) is not 300 n for n = 91.

    Raises:
        UsageError: an argument that is not positive and finite.
    """
    size = positive_integer("dataset_size", dataset_size)
    batch = positive_number("batch_size", batch_size)
    return max(1, math.floor(positive_integer("epochs", epochs) * size / Fraction(batch)))


def positive_integer(name: str, value: object) -> int:
    """`value` as a Python int of at least 1, or a UsageError that names it."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise UsageError(
            f"{name} must be a whole number, found {value!r}", f"give {name} as 1, 2, ..."
        )
    if number < 1:
        raise UsageError(f"{name} must be at least 1, found {number}", f"give {name} as 1, 2, ...")
    if number > LARGEST_INTEGER:
        raise UsageError(
            f"{name} must be at most {LARGEST_INTEGER}, found {number}", f"give a smaller {name}"
        )
    return number


def positive_number(name: str, value: object) -> float:
    """`value` as a finite Python float above 0, or a UsageError that names it."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise UsageError(
            f"{name} must be a number, found {value!r}", f"give {name} as a number above 0"
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number <= 0:
        raise UsageError(
            f"{name} must be finite and above 0, found {value!r}",
            f"give {name} as a number above 0",
        )
    return number


def check_delta(delta: float, dataset_size: int, record: str = "image") -> None:
    """Refuse a delta that lets whole records through.

    With delta = 1/N a mechanism that publishes one random record in full is "private".

    Raises:
        PrivacyError: delta >= 1/N.
    """
    if delta >= 1 / dataset_size:
        raise PrivacyError(
            f"delta is {delta:g}, but must be below 1/N = {1 / dataset_size:g} for N = "
            f"{dataset_size} {record}s: publishing a random {record} whole would satisfy such a claim",
            f"choose a smaller delta, for example {_delta_below(dataset_size):g}",
        )


def check_accountant(name: object) -> None:
    """Refuse an accountant whose answers are not a guarantee.

    Raises:
        PrivacyError: `gdp`.
        UsageError: any other unknown name.
    """
    if name == "gdp":
        raise PrivacyError(
            "the gdp accountant is a central-limit approximation, not a bound: it answers 0.037 "
            "for one step at q = 0.01 and sigma = 1, where the true epsilon is 0.199",
            f"choose one of {', '.join(ACCOUNTANTS)}",
        )
    if name not in ACCOUNTANTS:
        raise UsageError(f"unknown accountant {name!r}", f"choose one of {', '.join(ACCOUNTANTS)}")


def check_warm_start(name: object) -> int:
    """The number of sums that a warm start of that name releases.

    Raises:
        UsageError: an unknown name.
    """
    if not isinstance(name, str) or name not in WARM_STARTS:
        raise UsageError(f"unknown warm start {name!r}", f"choose one of {', '.join(WARM_STARTS)}")
    return WARM_STARTS[name]


def _delta_below(dataset_size: int) -> float:
    """The largest power of ten that is clearly below 1/N."""
    return float(10.0 ** (-len(str(dataset_size))))
