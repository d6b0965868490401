"""Account: what was released, counted where it is released.

One line for each noisy sum of a warm start and each noisy gradient after it, chained by SHA-256 to the line before it,
so that lines can't be dropped or reordered without the head changing. The chain shows damage, not forgery: whoever
holds the file can write a new chain.

Every process that releases something enters it under a name of its own, drawn at random. So two models that continued
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

from dpdm_cli.errors import DamagedFileError, PrivacyError
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.stored import Json, shown, understood

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

    def to_json(self) -> Json:
        """What is published."""
        return {
            "plan_digest": self.plan.digest(),
            "releases": self.releases,
            "processes": list(self.processes),
            "head": self.head,
        }

    @classmethod
    def from_json(cls, plan: PrivacyPlan, values: object) -> PublishedLedger:
        """What `to_json` described.

        Raises:
            PrivacyError: the ledger belongs to another plan.
            DamagedFileError: it says anything that `to_json` does not, or its chain doesn't lead to its head.
        """
        stored = understood(_StoredPublished, values, "the ledger")
        ledger = cls(plan, _releases_of(plan, stored), stored.processes)
        _check_names(stored.processes)
        # Each has made one release at least.
        if not min(1, ledger.releases) <= len(ledger.processes) <= ledger.releases:
            raise DamagedFileError(
                f"the ledger names {len(ledger.processes)} processes of {ledger.releases} releases"
            )
        if stored.head != ledger.head:
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
        """Whether the warm start has been made, or the plan has none."""
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

    def to_json(self) -> Json:
        """What is stored: the plan's digest, the number of releases, by whom, and the head of the chain."""
        return {
            "plan_digest": self.plan.digest(),
            "releases": self.releases,
            "segments": [list(segment) for segment in self.segments],
            "head": self.head,
        }

    @classmethod
    def from_json(cls, plan: PrivacyPlan, values: object) -> Ledger:
        """What `to_json` described, by arithmetic: see `check_chain`. Releases entered after that get a new name.

        Raises:
            PrivacyError: the ledger belongs to another plan.
            DamagedFileError: it says anything that `to_json` does not.
        """
        stored = understood(_StoredLedger, values, "the ledger")
        ledger = cls(plan)
        ledger.releases = _releases_of(plan, stored)
        ledger.segments, ledger.head = list(stored.segments), stored.head
        _check_names([name for name, _ in ledger.segments])
        taken = [count for _, count in ledger.segments]
        if sum(taken) != ledger.releases or min(taken, default=1) < 1:
            raise DamagedFileError("the ledger's segments are damaged")
        return ledger

    def check_chain(self) -> None:
        """Go over all releases once more. Raises DamagedFileError: the chain doesn't lead to the head."""
        again = Ledger(self.plan)
        for name, taken in self.segments:
            again.segments.append((name, 0))
            for _ in range(taken):
                again._enter()
        if again.head != self.head:
            raise DamagedFileError("the ledger's hash chain is broken")


@dataclass(frozen=True)
class _StoredPublished:
    plan_digest: str
    releases: int
    processes: tuple[str, ...]
    head: str


@dataclass(frozen=True)
class _StoredLedger:
    plan_digest: str
    releases: int
    segments: tuple[tuple[str, int], ...]
    head: str


def _line(head: str, release: int, name: str) -> str:
    """What enters the chain for a release: JSON with sorted keys, by hand: an encoder takes three times as long."""
    return f'{{"previous": "{head}", "release": {release}, "segment": "{name}"}}'


def _chained(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


def _releases_of(plan: PrivacyPlan, stored: _StoredPublished | _StoredLedger) -> int:
    """How many releases a stored ledger counts, checked; and that it belongs to the plan."""
    if stored.plan_digest != plan.digest():
        raise PrivacyError(
            "the stored ledger belongs to another privacy plan",
            "resume with the settings the run was started with, or start a new run",
        )
    if not 0 <= stored.releases <= plan.releases:
        raise DamagedFileError(
            f"the ledger counts {shown(stored.releases)} releases of {plan.releases}"
        )
    return stored.releases


def _check_names(names: Sequence[str]) -> None:
    if not all(map(_NAME.fullmatch, names)) or len(set(names)) != len(names):
        raise DamagedFileError("the ledger's processes are damaged")
