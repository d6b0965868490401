"""How far a batch's clipped sum moves when one record is removed: `python tests/benchmarks/removal.py --json`.

It may move by C and not more. In exact arithmetic it moves by that record's clipped gradient; on a device, kernels and
the order of rounding may change with the shape of a micro-batch, so that the other records' gradients change too. The
batch is differentiated with and without its record as a step does, in float32, TF32 (CUDA) and bf16, and what the sum
moved by beyond the record's own clipped gradient is told in units of C.

The rows are noise of MNIST's shape: nothing here depends on data.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from step_cost import Case, device_name
from torch import Tensor

from dpdm_cli.compute.device import resolve_device, set_precision
from dpdm_cli.compute.threads import micro_batches, parallel_map
from dpdm_cli.privacy.clipping import clipped_sum
from dpdm_cli.privacy.gradients.per_example import PerExampleGradients


def sum_of(case: Case, records: Tensor, clip: float, micro_batch: int, bf16: bool) -> Tensor:
    """The sum of clipped gradients, float64 [P] on the CPU, over micro-batches as a step takes them."""
    per_example = PerExampleGradients(case.network)

    def part(indices: Tensor) -> Tensor:
        with torch.autocast(case.device.type, torch.bfloat16, enabled=bf16):
            gradients = per_example(case.losses, indices)
        return clipped_sum(gradients, clip).double().cpu()

    total = torch.zeros(per_example.size, dtype=torch.float64)
    batches = micro_batches(records, micro_batch, case.workers)
    for found in parallel_map(part, batches, case.workers):
        total += found
    return total


def moved(case: Case, precision: str, clip: float, micro_batch: int, removals: int) -> list[float]:
    """The move beyond a record's own clipped gradient, in units of C, for some records."""
    set_precision("auto" if precision == "bf16" else precision, case.device)
    everyone = torch.arange(case.batch, device=case.device)
    bf16, found = precision == "bf16", []
    whole = sum_of(case, everyone, clip, micro_batch, bf16)
    for record in torch.linspace(0, case.batch - 1, removals).long().tolist():
        rest = torch.cat([everyone[:record], everyone[record + 1 :]])
        own = sum_of(case, everyone[record : record + 1], clip, micro_batch, bf16)
        without = sum_of(case, rest, clip, micro_batch, bf16)
        found.append(float((whole - without).norm()) / clip - float(own.norm()) / clip)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--net", default="paper", choices=("paper", "small"))
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--removals", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = resolve_device(options.device)
    case = Case(options.net, options.batch, 1, device, torch.float32)
    micro_batch = case.tuned_private()
    rows: list[dict[str, Any]] = []
    for precision in ("float32", *(("tf32",) if device.type == "cuda" else ()), "bf16"):
        beyond = moved(case, precision, options.clip, micro_batch, options.removals)
        rows.append({"precision": precision, "beyond_c": beyond})
        if not options.json:
            print(f"{precision:8} moved by {max(beyond):+.2e} C beyond the record's own gradient")
    if options.json:
        facts = {"net": options.net, "batch": options.batch, "micro_batch": micro_batch}
        print(json.dumps({**facts, "device": device_name(device), "rows": rows}))


if __name__ == "__main__":
    main()
