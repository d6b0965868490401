"""Which sampler is used: settings given by name override the paper's for a purpose, which override the default.

The paper's table is data: see `presets/samplers.toml`. Knows no model and no file of the user's.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, get_args

from dpdm_cli.choices import Purpose
from dpdm_cli.diffusion.generation import CHURNING, SamplerSettings
from dpdm_cli.diffusion.samplers import Churn
from dpdm_cli.errors import UsageError

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)

_CHURN = {"churn": "amount", "s_min": "lowest", "s_max": "highest", "s_noise": "scale"}
_OTHERS = ("sampler", "steps", "guidance", "temperature", "deformation")
_THEN, _AS_GIVEN = "; ", " as given"
_SAME_BUDGET = math.log(1.05)  # a plan may spend a little less than its target


@dataclass(frozen=True, kw_only=True)
class SamplerChoice:
    """A sampler and why it was chosen.

    Attributes:
        settings: see `SamplerSettings`.
        origin: where the settings are from, for people.
        remark: how they differ from what was asked for; empty when they don't.
    """

    settings: SamplerSettings
    origin: str
    remark: str = ""


def choose_sampler(
    base: SamplerSettings | None = None,
    *,
    purpose: Purpose | None = None,
    dataset: str = "custom",
    image_size: int | None = None,
    epsilon: float | None = None,
    has_prior: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> SamplerChoice:
    """The default settings, overridden by `base` or the paper's for a purpose, overridden by those given by name.

    Args:
        base: whole settings; not together with `purpose`.
        purpose: `fid` or `accuracy`, what the paper chose its settings for.
        dataset, image_size, epsilon, has_prior: of the model; epsilon is None without privacy.
        overrides: some of sampler, steps, guidance, temperature, deformation, churn, s_min, s_max, s_noise; None
            values are ignored. A sampler without churn drops that of the settings it overrides.

    Raises:
        UsageError: an unknown name or purpose, or values that do not make sense alone or together.
    """
    if base is not None and purpose is not None:
        raise UsageError("a sampler and a purpose are both given", "give one of them")
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    if purpose is not None:
        choice = paper_sampler(dataset, purpose, epsilon=epsilon, image_size=image_size)
    elif base is not None:
        choice = SamplerChoice(settings=base, origin="given")
    else:
        # Of the sampler that is asked for: its default number of steps is its own.
        asked = {name: value for name, value in given.items() if name == "sampler"}
        settings = SamplerSettings.default(has_prior=has_prior, **asked)
        choice = SamplerChoice(settings=settings, origin="default")
    if not given:
        return choice
    return SamplerChoice(
        settings=_changed(choice.settings, given),
        origin=_with(choice.origin, given),
        remark=choice.remark,
    )


def paper_sampler(
    dataset: str,
    purpose: Purpose,
    *,
    epsilon: float | None = None,
    image_size: int | None = None,
) -> SamplerChoice:
    """The paper's settings for a data set, a budget and a purpose (DPDM, arXiv 2210.09929).

    Where the table has no row for the budget, the row of the same set with the nearest epsilon on a
    log scale; for a model without privacy, the largest. Where it has none for the set, a sampler of
    the kind that comes second in the paper's comparison, marked as not from the paper.

    Args:
        dataset: name of the set; `custom` is in no table.
        purpose: `fid` or `accuracy`.
        epsilon: the claim's; None without privacy.
        image_size: side in pixels; None takes that of the row.

    Raises:
        UsageError: an unknown purpose.
    """
    if purpose not in PURPOSES:
        raise UsageError(f"unknown purpose {purpose!r}", f"choose one of {', '.join(PURPOSES)}")
    table = _table()
    rows = [r for r in table["row"] if (r["dataset"], r["purpose"]) == (dataset, purpose)]
    if not rows:
        settings = _settings(table["elsewhere"][purpose])
        return SamplerChoice(
            settings=settings,
            origin=_elsewhere(purpose),
            remark=f"the paper's table of samplers has no row for {dataset}; taken: {settings}",
        )

    def distance(budget: float) -> float:
        return abs(math.log(budget / epsilon)) if epsilon else -budget

    row, budget = min(
        ((r, b) for r in rows for b in r["epsilon"]), key=lambda pair: distance(pair[1])
    )
    remarks = []
    if epsilon is None or distance(budget) > _SAME_BUDGET:
        asked = (
            "a model without privacy" if epsilon is None else f"{dataset} at epsilon {epsilon:g}"
        )
        remarks.append(
            f"the paper's table of samplers has no row for {asked}; "
            f"taken: the nearest, {dataset} at epsilon {budget:g}"
        )
    if image_size not in (None, row.get("image_size", image_size)):
        remarks.append(
            f"the paper's table has this row for images of {row['image_size']} pixels, "
            f"these have {image_size}"
        )
    return SamplerChoice(
        settings=_settings(row),
        origin=_of_paper(purpose, dataset, budget),
        remark="; ".join(remarks),
    )


def is_origin(text: object) -> bool:
    """Whether `choose_sampler` can have given this origin."""
    if not isinstance(text, str):
        return False
    known = {"default", "given", *(_elsewhere(purpose) for purpose in PURPOSES)}
    for row in _table()["row"]:
        known |= {_of_paper(row["purpose"], row["dataset"], budget) for budget in row["epsilon"]}
    base, _, given = text.partition(_THEN)
    names = sorted({*_OTHERS, *_CHURN}.intersection(given.removesuffix(_AS_GIVEN).split(", ")))
    return base in known and text in (base, _with(base, names))


def _table() -> dict[str, Any]:
    text = (resources.files(__package__) / "presets" / "samplers.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _of_paper(purpose: str, dataset: str, budget: float) -> str:
    aim = "FID" if purpose == "fid" else "accuracy"
    return f"the paper's for the best {aim} on {dataset} at epsilon {budget:g}"


def _elsewhere(purpose: str) -> str:
    return f"for {purpose}, not from the paper"


def _with(origin: str, names: Iterable[str]) -> str:
    """Of settings from there, some of which were given by name."""
    return f"{origin}{_THEN}{', '.join(sorted(names))}{_AS_GIVEN}"


def _settings(row: Mapping[str, Any]) -> SamplerSettings:
    return _changed(SamplerSettings(), {k: row[k] for k in (*_OTHERS, *_CHURN) if k in row})


def _changed(settings: SamplerSettings, given: Mapping[str, Any]) -> SamplerSettings:
    unknown = given.keys() - {*_OTHERS, *_CHURN}
    if unknown:
        raise UsageError(
            f"unknown sampler setting {min(unknown)!r}",
            f"known: {', '.join((*_OTHERS, *_CHURN))}",
        )
    sampler = given.get("sampler", settings.sampler)
    before = settings.churn if sampler in CHURNING else Churn()
    churn = {ours: given.get(name, getattr(before, ours)) for name, ours in _CHURN.items()}
    lone = [name for name in ("s_min", "s_max", "s_noise") if name in given]
    if lone and not churn["amount"]:
        raise UsageError(
            f"{lone[0]} is given, but no noise is added back",
            "add --churn, or leave it out",
        )
    others = {name: given[name] for name in _OTHERS if name in given}
    return replace(settings, **others, churn=Churn(**churn))
