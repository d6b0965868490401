"""Account: what was released, counted where it is released.

One line for each noisy gradient, chained by SHA-256 to the line before it, so that lines can't be dropped or
reordered without the head changing. The chain shows damage, not forgery: whoever holds the file can write a
new chain.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from dpdm_cli.errors import DamagedFileError, PrivacyError
from dpdm_cli.privacy.plan import PrivacyPlan


class Ledger:
    """The releases made under one plan.

    Args:
        plan: the plan all releases belong to.
        steps: releases already made (a resumed run).
    """

    def __init__(self, plan: PrivacyPlan, steps: int = 0) -> None:
        self.plan = plan
        self.steps = 0
        self.head = hashlib.sha256(plan.digest().encode()).hexdigest()
        for _ in range(steps):
            self.record()

    def record(self) -> None:
        """Enter one release.

        Raises:
            PrivacyError: when the plan's steps are all spent; nothing is entered.
        """
        self.require_budget()
        line = json.dumps({"previous": self.head, "step": self.steps + 1}, sort_keys=True)
        self.head = hashlib.sha256(line.encode()).hexdigest()
        self.steps += 1

    def require_budget(self) -> None:
        """Raise `PrivacyError` unless one more release is covered by the plan."""
        if self.steps >= self.plan.steps:
            raise PrivacyError(
                f"all {self.plan.steps} steps of the plan are spent",
                "a longer run needs a plan of its own: calibrate one for the total number of steps",
            )

    def to_dict(self) -> dict[str, Any]:
        """What is stored: the plan's digest, the number of releases and the head of the chain."""
        return {"plan_digest": self.plan.digest(), "steps": self.steps, "head": self.head}

    @classmethod
    def from_dict(cls, plan: PrivacyPlan, stored: dict[str, Any]) -> Ledger:
        """Rebuild a stored ledger.

        Raises:
            PrivacyError: the ledger belongs to another plan.
            DamagedFileError: the chain doesn't lead to the stored head.
        """
        if stored.get("plan_digest") != plan.digest():
            raise PrivacyError(
                "the stored ledger belongs to another privacy plan",
                "resume with the settings the run was started with, or start a new run",
            )
        steps = stored.get("steps")
        if not isinstance(steps, int) or not 0 <= steps <= plan.steps:
            raise DamagedFileError(f"the ledger counts {steps!r} steps of {plan.steps}")
        ledger = cls(plan, steps)
        if stored.get("head") != ledger.head:
            raise DamagedFileError("the ledger's hash chain is broken")
        return ledger
