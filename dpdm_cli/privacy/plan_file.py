"""A plan in a file, with the claim it was written with: written whole, read with care."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from dpdm_cli.errors import DamagedFileError, DataError, ResourceError, UsageError
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.stored import Json, json_object, json_text, optional, parse_json, understood

_MOST_BYTES = 1_000_000
_WRITE_ONE = "write one with `dpdm calibrate --out plan.json`"


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """A plan and the claim it was written with, which is not checked here.

    Attributes:
        plan: what may be released.
        epsilon, claimed_by, epsilon_by, reason: see `Claim`.
        target_epsilon, slack: what was asked for, and how much of it is left; None for a given sigma.
        risk: as `Risk.to_json` has it; None in files that do not say.
    """

    plan: PrivacyPlan
    epsilon: float
    claimed_by: str
    epsilon_by: Mapping[str, float]
    reason: str
    target_epsilon: float | None = None
    slack: float | None = None
    risk: Json | None = None

    def to_json(self) -> Json:
        """The plan's figures, and the claim's beside them."""
        claimed = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name != "plan"
        }
        return {**self.plan.to_dict(), **claimed}

    @classmethod
    def from_json(cls, values: Json) -> PlanFile:
        """What `to_json` described.

        Raises:
            DamagedFileError: keys or values that no plan has.
            PrivacyError: figures no claim can be made for.
        """
        names = {field.name for field in fields(cls)}
        claimed: Json = {"risk": None}
        claimed |= {name: value for name, value in values.items() if name in names}
        plan = {name: value for name, value in values.items() if name not in names}
        return understood(
            cls,
            {**claimed, "plan": plan},
            "the plan file",
            plan=PrivacyPlan.from_dict,
            risk=optional(json_object),
        )


def read_plan_file(path: str | Path) -> PlanFile:
    """What is in a plan file.

    Raises:
        DataError: no readable file at `path`.
        DamagedFileError: not JSON, or see `PlanFile.from_json`.
        PrivacyError: figures no claim can be made for.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"{path}: cannot read the plan: {error.strerror or error}", _WRITE_ONE
        ) from error
    values = parse_json(content, str(path), hint=_WRITE_ONE, most=_MOST_BYTES)
    try:
        return PlanFile.from_json(values)
    except DamagedFileError as error:
        raise DamagedFileError(f"{path}: {error.message}", error.hint or _WRITE_ONE) from error


def write_plan_file(path: str | Path, planned: PlanFile) -> None:
    """Write a plan and its claim whole or not at all; never over another file.

    Raises:
        UsageError: `path` exists already, or its folder does not.
        ResourceError: the file cannot be written.
    """
    path = Path(path)
    refuse_existing(path)
    text = json_text(planned.to_json())
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with part.open("xb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ResourceError(
            f"{path}: cannot write the plan: {error.strerror or error}",
            "choose another place with --out",
        ) from error


def refuse_existing(path: Path) -> None:
    """Raise `UsageError` unless a new file can be made at `path`."""
    if os.path.lexists(path):
        raise UsageError(
            f"{path} exists already and would be lost", "choose another name, or move it away"
        )
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", f"make it: mkdir -p {path.parent}")
