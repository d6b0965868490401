"""How surely each mutant is caught: `PYTHONPATH=tests python tests/benchmarks/audit_power.py --seeds 10`.

Breaks the real code as the tests do, many times over with other starting weights, and counts how often the check that
is named for it fails; then counts false alarms on the correct code. Last, the figures of private images in what a run
publishes, and whether they are seen. Prints a table in Markdown. `--only WORDS` takes the mutants of that name.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import pytest
import torch
from properties.test_audit_catches import attacked, replayed
from properties.test_published_figures import differences
from support.leaks import LEAKS
from support.mutants import MUTANTS, Mutant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", default="", help="mutants whose names contain this")
    parser.add_argument("--alarms", type=int, help="runs of the correct code; 5 times the seeds")
    arguments = parser.parse_args()
    seeds = arguments.seeds
    runs = 5 * seeds if arguments.alarms is None else arguments.alarms
    print(f"| mutant | detector | checks caught | seconds each | canaries caught, of {seeds} |")
    print("|---|---|---|---|---|")
    chosen = {name: mutant for name, mutant in MUTANTS.items() if arguments.only in name}
    for name, mutant in chosen.items():
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
    for name, leak in LEAKS.items():
        if arguments.only in name:
            caught = sum(leak.detector in _differences(leak, seed) for seed in range(seeds))
            print(f"| {name} | {leak.detector} | {caught} of {seeds} | | not asked |", flush=True)
    alarms = sum(any(not finding.passed for finding in replayed()) for _ in range(runs))
    blamed = sum(not attacked().passed for _ in range(runs))
    said = sum(bool(_differences(None, seed)) for seed in range(runs))
    print(f"| none: correct code | any check | {alarms} of {runs} | | {blamed} of {runs} |")
    print(f"| none: correct code | any file | {said} of {runs} | | not asked |")


def _differences(leak: Mutant | None, seed: int) -> list[str]:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        if leak is not None:
            leak.break_it(patch)
        return differences(seed, Path(folder), patch)


if __name__ == "__main__":
    main()
