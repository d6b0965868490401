"""How long commands take to begin: `python tests/benchmarks/startup.py --json`.

`dpdm --help` beside an empty Python, in turn; and `dpdm train mnist` from its start to the end of its first step, in a
process that ends there. MNIST must lie in `DPDM_DATA_DIR`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

FIRST_STEP = """
import os, sys, time
import dpdm_cli.training.trainer as trainer
step = trainer.Trainer.step
def first(self):
    step(self)
    print(time.time(), flush=True)
    os._exit(0)
trainer.Trainer.step = first
from dpdm_cli.__main__ import main
sys.argv = ["dpdm", "train", "mnist", "--eps", "10", "--out", sys.argv[1], "--quiet"]
main()
"""


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def to_first_step() -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.time()
        done = subprocess.run(
            [sys.executable, "-c", FIRST_STEP, f"{folder}/run"],
            check=True,
            capture_output=True,
            text=True,
        )
        return float(done.stdout.split()[-1]) - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    times: dict[str, list[float]] = {"empty": [], "help": [], "first_step": []}
    for _ in range(options.repeats):
        times["empty"].append(seconds([sys.executable, "-c", "pass"]))
        times["help"].append(seconds([sys.executable, "-m", "dpdm_cli", "--help"]))
    for _ in range(min(options.repeats, 3)):
        times["first_step"].append(to_first_step())
    medians = {name: statistics.median(values) for name, values in times.items()}
    result = {
        "seconds": medians,
        "help_over_empty": medians["help"] / medians["empty"],
        "repeats": options.repeats,
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(f"dpdm --help {medians['help']:.2f} s, {result['help_over_empty']:.1f} times `pass`")
        print(f"dpdm train mnist to the end of its first step {medians['first_step']:.1f} s")


if __name__ == "__main__":
    main()
