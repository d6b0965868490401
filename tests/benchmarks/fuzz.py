"""What became of many hostile files of each kind, as a table: `python tests/benchmarks/fuzz.py 200`."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from support.command_children import make
from support.fuzzing import KINDS, attempts


def main(count: int, names: list[str]) -> None:
    """Print a line for each kind of file, and one for each fault."""
    with tempfile.TemporaryDirectory() as place:
        make(Path(place))
        for name in names or KINDS:
            codes: Counter[int | None] = Counter()
            faults = 0
            for seed, words, done, fault in attempts(KINDS[name], Path(place), count):
                codes[done.code] += 1
                faults += bool(fault)
                if fault:
                    said = done.err.strip().splitlines() or [""]
                    print(f"    {name} {seed}: {' '.join(words)}: {fault}: {said[-1]}", flush=True)
            shown = " | ".join(str(codes[code]) for code in (0, 2, 3, 4, 5, 6))
            print(f"| {name} | {sum(codes.values())} | {shown} | {faults} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
