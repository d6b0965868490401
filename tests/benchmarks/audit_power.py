"""How surely the audit catches each mutant: `PYTHONPATH=tests python tests/benchmarks/audit_power.py --seeds 10`.

Breaks the real code as the tests do, many times over with other starting weights, and counts how often the check that
is named for it fails; then counts false alarms on the correct code. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import time

import pytest
import torch
from mutants import MUTANTS
from properties.test_audit_catches import attacked, replayed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    print(f"| mutant | detector | replay caught | seconds each | canaries caught, of {seeds} |")
    print("|---|---|---|---|---|")
    for name, mutant in MUTANTS.items():
        caught = by_canaries = 0
        start = time.monotonic()
        for seed in range(seeds):
            torch.manual_seed(seed)
            with pytest.MonkeyPatch.context() as patch:
                mutant.break_it(patch)
                wrong = [finding.name for finding in replayed() if not finding.passed]
            caught += any(found.startswith(mutant.detector) for found in wrong)
        taken = (time.monotonic() - start) / seeds
        if mutant.canaries:
            for _ in range(seeds):
                with pytest.MonkeyPatch.context() as patch:
                    mutant.break_it(patch)
                    by_canaries += not attacked(1400).passed
        shown = str(by_canaries) if mutant.canaries else "not asked"
        print(
            f"| {name} | {mutant.detector} | {caught} of {seeds} | {taken:.1f} | {shown} |",
            flush=True,
        )
    alarms = sum(any(not finding.passed for finding in replayed()) for _ in range(5 * seeds))
    blamed = sum(not attacked().passed for _ in range(5 * seeds))
    print(f"| none: correct code | any | {alarms} of {5 * seeds} | | {blamed} of {5 * seeds} |")


if __name__ == "__main__":
    main()
