"""What a private step gains by more processes: `torchrun --nproc-per-node 2 tests/benchmarks/many_processes.py --json`.

In turn: the first process takes the step alone while the others wait, then all take the same step together. The
efficiency is the time alone over the number of processes times the time together; medians over turns. Beside it, what
the processes spend on talking and on noise: the batch's indices, the two halves of the sum, the noise of a part.

The rows are noise of MNIST's shape: nothing here depends on data.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from step_cost import Case

from dpdm_cli.compute.device import resolve_device
from dpdm_cli.compute.distributed import Processes
from dpdm_cli.compute.rendezvous import joined
from dpdm_cli.privacy.entropy import bernoulli, standard_normal


def timed(act: Callable[[], Any], processes: Processes, device: torch.device) -> float:
    """Seconds until all are done."""
    processes.all_reduce_max(0)
    start = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    processes.all_reduce_max(0)
    return time.perf_counter() - start


def measured(case: Case, processes: Processes, turns: int) -> dict[str, Any]:
    """One line of the table."""
    case.most = -(-case.batch // processes.size)
    micro_batch = case.tuned_private()
    alone, together = case.private(micro_batch), case.private(micro_batch, processes)
    parameters = sum(p.numel() for p in case.network.parameters())
    total = torch.zeros(parameters, dtype=torch.float64, device=case.device)
    part = processes.reduce_scatter(total)
    parts = {
        "mask among 1.28 million": lambda: bernoulli(2048 / 1_281_167, 1_281_167),
        "mask among 10 million": lambda: bernoulli(4e-4, 10_000_000),
        "mask of 4096": lambda: processes.scatter_indices(lambda: torch.arange(4096)),
        "sum": lambda: processes.reduce_scatter(total),
        "noise": lambda: standard_normal(len(part)),
        "gather": lambda: processes.all_gather(part),
        "requests": lambda: processes.all_reduce_max(0, 0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ("alone", "together", *parts)}
    for turn in range(turns + 1):
        found = {
            "alone": timed(alone if processes.is_first else lambda: None, processes, case.device),
            "together": timed(together, processes, case.device),
            **{name: timed(act, processes, case.device) for name, act in parts.items()},
        }
        for name, value in found.items():
            if turn:  # the first sets things up
                seconds[name].append(value)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [
        a / (processes.size * t) for a, t in zip(seconds["alone"], seconds["together"], strict=True)
    ]
    return {
        "network": case.net,
        "batch": case.batch,
        "copies": case.copies,
        "parameters": parameters,
        "processes": processes.size,
        "micro_batch": micro_batch,
        "efficiency": round(statistics.median(ratios), 3),
        "efficiencies": [round(ratio, 3) for ratio in ratios],
        "seconds": {name: round(value, 5) for name, value in middle.items()},
    }


def main() -> None:
    """Measure the cases and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", default="paper", choices=("paper", "small"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--copies", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    device = resolve_device(given.device)
    with joined(device) as processes:
        case = Case(given.net, given.batch, given.copies, device, torch.float32)
        found = measured(case, processes, given.turns)
        if processes.is_first:
            print(json.dumps(found) if given.json else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
