"""What calibrating costs: `python tests/benchmarks/calibrate.py --json`.

`dpdm calibrate --eps 10 --delta 1e-5` (PRV, MNIST's plan) and by RDP, beside a Python that imports torch and opacus and
does nothing, in turn; medians of wall-clock times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    commands = {
        "imports": ["-c", "import torch, opacus"],
        "prv": ["-m", "dpdm_cli", "calibrate", "--eps", "10", "--delta", "1e-5", "--json"],
        "rdp": ["-m", "dpdm_cli", "calibrate", "--eps", "10", "--accountant", "rdp", "--json"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.repeats):
        for name, command in commands.items():
            times[name].append(seconds(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    result = {
        "seconds": medians,
        "prv_over_imports": medians["prv"] / medians["imports"],
        "rdp_over_imports": medians["rdp"] / medians["imports"],
        "repeats": options.repeats,
    }
    if options.json:
        print(json.dumps(result))
    else:
        for name in ("prv", "rdp"):
            ratio = result[f"{name}_over_imports"]
            print(f"{name} {medians[name]:.2f} s, {ratio:.2f} times the imports")


if __name__ == "__main__":
    main()
