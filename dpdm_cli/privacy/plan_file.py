"""A plan in a file, with the claim it was written with: written whole, read with care."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dpdm_cli.errors import DamagedFileError, DataError, ResourceError, UsageError
from dpdm_cli.privacy.plan import PrivacyPlan, check_keys

CLAIM_KEYS = ("epsilon", "claimed_by", "epsilon_by", "reason", "target_epsilon", "slack")
"""What a plan file states beside the plan: the claim it was written with."""

MAX_PLAN_BYTES = 1_000_000


def load_plan(path: str | Path) -> PrivacyPlan:
    """The plan in a file that `dpdm calibrate --out` wrote; see `read_plan_file`."""
    return read_plan_file(path)[0]


def read_plan_file(path: str | Path) -> tuple[PrivacyPlan, dict[str, Any]]:
    """The plan in a file and the claim the file states (`CLAIM_KEYS`), which is not checked here.

    Raises:
        DataError: no readable file at `path`.
        DamagedFileError: not JSON, or keys or values that no plan has.
        PrivacyError: figures no claim can be made for.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            text = file.read(MAX_PLAN_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"{path}: cannot read the plan: {error.strerror or error}",
            "write one with `dpdm calibrate --out plan.json`",
        ) from error
    try:
        if len(text) > MAX_PLAN_BYTES:
            raise ValueError("it is larger than any plan")
        values = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{path}: not a plan: {error}", "write one with `dpdm calibrate --out plan.json`"
        ) from error
    try:
        if not isinstance(values, dict):
            raise DamagedFileError(f"a plan is a JSON object, not {type(values).__name__}")
        stated = {name: values.pop(name) for name in CLAIM_KEYS if name in values}
        plan = PrivacyPlan.from_dict(values)
        check_keys(stated, set(CLAIM_KEYS), "the plan's claim")
    except DamagedFileError as error:
        hint = error.hint or "write it again with `dpdm calibrate --out plan.json`"
        raise DamagedFileError(f"{path}: {error.message}", hint) from error
    return plan, stated


def write_plan_file(path: str | Path, plan: PrivacyPlan, claimed: dict[str, Any]) -> None:
    """Write a plan and its claim (`CLAIM_KEYS`) whole or not at all; never over another file.

    Raises:
        UsageError: `path` exists already, or its folder does not.
        ResourceError: the file cannot be written.
    """
    path = Path(path)
    refuse_existing(path)
    check_keys(claimed, set(CLAIM_KEYS), "the plan's claim")
    text = json.dumps({**plan.to_dict(), **claimed}, indent=2, allow_nan=False) + "\n"
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with part.open("x", encoding="ascii") as file:
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


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refusing two values under one name."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name appears twice in one object")
    return values
