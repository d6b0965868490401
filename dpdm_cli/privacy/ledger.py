"""Account: what was released, counted where it is released.

One line for each noisy sum of a warm start and each noisy gradient after it, chained by SHA-256 to the line before it,
so that lines can't be dropped or reordered without the head changing. The chain shows damage, not forgery: whoever
holds the file can write a new chain.

Every process that releases something enters it under a name of its own, drawn at random. So two models that went on
from one saved state show that they did.

What is published of it is one line for each process, with its name alone. How many releases a process made before
another went on follows the clock: of the saves, of whoever stopped it, and so of how long steps took, which follows
the batches that were drawn. For the same reason the published chain is one over processes: that over releases would
tell their numbers to whoever tries.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dpdm_cli.errors import DamagedFileError, PrivacyError
from dpdm_cli.privacy.plan import PrivacyPlan, check_keys

LONGEST_CHAIN = 10**7
"""Releases. The private chain over as many takes some ten seconds; `verify` leaves a longer one out, and says so."""

_NAME = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class PublishedLedger:
    """What may be known of the releases made under one plan.

    Attributes:
        plan: the plan all releases belong to.
        releases: how many there are.
        processes: names of those that made them, in their order.
    """

    plan: PrivacyPlan
    releases: int
    processes: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Noisy gradients released."""
        return max(0, self.releases - self.plan.warm_releases)

    @property
    def head(self) -> str:
        """Of the hash chain, one line for each process and a last one for how many releases they made."""
        head = _chained(self.plan.digest())
        for name in self.processes:
            head = _chained(json.dumps({"previous": head, "process": name}, sort_keys=True))
        return _chained(json.dumps({"previous": head, "releases": self.releases}, sort_keys=True))

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "plan_digest": self.plan.digest(),
            "releases": self.releases,
            "processes": list(self.processes),
            "head": self.head,
        }

    @classmethod
    def from_dict(cls, plan: PrivacyPlan, stored: dict[str, Any]) -> PublishedLedger:
        """What `to_dict` described.

        Raises:
            PrivacyError: the ledger belongs to another plan.
            DamagedFileError: it says anything that `to_dict` does not, or its chain doesn't lead to its head.
        """
        releases = _releases_of(plan, stored)
        names = stored.get("processes")
        if not isinstance(names, list) or not all(map(_is_name, names)):
            raise DamagedFileError("the ledger's processes are damaged")
        # Each has made one release at least.
        if len(set(names)) != len(names) or not min(1, releases) <= len(names) <= releases:
            raise DamagedFileError(
                f"the ledger names {len(names)} processes of {releases} releases"
            )
        check_keys(stored, {"plan_digest", "releases", "processes", "head"}, "the ledger")
        ledger = cls(plan, releases, tuple(names))
        if stored["head"] != ledger.head:
            raise DamagedFileError("the ledger's hash chain is broken")
        return ledger


class Ledger:
    """The releases made under one plan. Private: see `published`.

    Args:
        plan: the plan all releases belong to.

    Attributes:
        releases: made so far; the first `plan.warm_releases` of them are the warm start's, the rest steps.
        segments: names and numbers of releases of the processes that made them, in their order.
        head: of the hash chain.
    """

    def __init__(self, plan: PrivacyPlan) -> None:
        self.plan = plan
        self.releases = 0
        self.segments: list[tuple[str, int]] = []
        self.head = _chained(plan.digest())
        self._begun = False

    @property
    def steps(self) -> int:
        """Noisy gradients released."""
        return max(0, self.releases - self.plan.warm_releases)

    @property
    def is_warm(self) -> bool:
        """Whether the warm start lies behind, or there is none."""
        return self.releases >= self.plan.warm_releases

    def record(self, *, warm: bool = False) -> None:
        """Enter one release: a step, or a sum of the warm start.

        Raises:
            PrivacyError: as `require_budget`; nothing is entered.
        """
        self.require_budget(warm=warm)
        if not self._begun:
            self.segments.append((os.urandom(16).hex(), 0))
            self._begun = True
        self._enter()

    def _enter(self) -> None:
        name, releases = self.segments[-1]
        self.head = _chained(_line(self.head, self.releases + 1, name))
        self.segments[-1] = name, releases + 1
        self.releases += 1

    def require_budget(self, *, warm: bool = False) -> None:
        """Raise `PrivacyError` unless the plan's next release is one more of that kind."""
        if warm and self.is_warm:
            raise PrivacyError(
                "all sums of the plan's warm start have been released",
                "another warm start needs a plan of its own",
            )
        if not warm and not self.is_warm:
            raise PrivacyError(
                "the plan begins with a warm start, which has not been made",
                "make it first, or calibrate a plan without one",
            )
        if self.steps >= self.plan.steps:
            raise PrivacyError(
                f"all {self.plan.steps} steps of the plan are spent",
                "a longer run needs a plan of its own: calibrate one for the total number of steps",
            )

    def published(self) -> PublishedLedger:
        """What may be known of it."""
        return PublishedLedger(self.plan, self.releases, tuple(name for name, _ in self.segments))

    def to_dict(self) -> dict[str, Any]:
        """What is stored: the plan's digest, the number of releases, by whom, and the head of the chain."""
        return {
            "plan_digest": self.plan.digest(),
            "releases": self.releases,
            "segments": [list(segment) for segment in self.segments],
            "head": self.head,
        }

    @classmethod
    def from_dict(cls, plan: PrivacyPlan, stored: dict[str, Any]) -> Ledger:
        """Rebuild a stored ledger; releases entered after that get a new name.

        Raises:
            PrivacyError: the ledger belongs to another plan.
            DamagedFileError: the chain doesn't lead to the stored head.
        """
        releases = _releases_of(plan, stored)
        ledger = cls(plan)
        for name, taken in _segments(stored.get("segments"), releases):
            ledger.segments.append((name, 0))
            for _ in range(taken):
                ledger._enter()
        if stored.get("head") != ledger.head:
            raise DamagedFileError("the ledger's hash chain is broken")
        return ledger


def claimed_by(plan: PrivacyPlan, stored: dict[str, Any]) -> PublishedLedger:
    """What a stored private ledger says that may be known, by arithmetic: its chain is not computed.

    Raises:
        PrivacyError, DamagedFileError: as `Ledger.from_dict`, but for the chain.
    """
    releases = _releases_of(plan, stored)
    segments = _segments(stored.get("segments"), releases)
    return PublishedLedger(plan, releases, tuple(name for name, _ in segments))


def _line(head: str, release: int, name: str) -> str:
    """What enters the chain for a release: JSON with sorted keys, by hand: an encoder takes three times as long."""
    return f'{{"previous": "{head}", "release": {release}, "segment": "{name}"}}'


def _chained(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


def _releases_of(plan: PrivacyPlan, stored: dict[str, Any]) -> int:
    """How many releases a stored ledger counts, checked; and that it belongs to the plan."""
    if stored.get("plan_digest") != plan.digest():
        raise PrivacyError(
            "the stored ledger belongs to another privacy plan",
            "resume with the settings the run was started with, or start a new run",
        )
    releases = stored.get("releases")
    if type(releases) is not int or not 0 <= releases <= plan.releases:
        raise DamagedFileError(
            f"the ledger counts {str(releases)[:40]} releases of {plan.releases}"
        )
    return releases


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _segments(stored: object, releases: int) -> Sequence[tuple[str, int]]:
    """The stored segments, checked."""
    damaged = DamagedFileError("the ledger's segments are damaged")
    if not isinstance(stored, list):
        raise damaged
    found = []
    for segment in stored:
        if not isinstance(segment, list) or len(segment) != 2:
            raise damaged
        name, taken = segment
        if not _is_name(name):
            raise damaged
        if isinstance(taken, bool) or not isinstance(taken, int) or not 1 <= taken <= releases:
            raise damaged
        found.append((name, taken))
    if sum(taken for _, taken in found) != releases or len({name for name, _ in found}) != len(
        found
    ):
        raise damaged
    return found
