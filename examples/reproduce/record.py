"""Write what a row measured into results.jsonl, and all rows, beside the paper's, into RESULTS.md.

Called by run.sh. The last line of a row in results.jsonl is the one that is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LINES = HERE / "results.jsonl"
PAGE = HERE / "RESULTS.md"
FORECAST = HERE.parents[1] / "dpdm_cli" / "training" / "forecast" / "measured.json"
BEGIN, END = "<!-- rows -->\n", "<!-- end of rows -->\n"

# Accuracy in % of logistic regression, MLP and CNN by the sampler for accuracy, FID by that for FID, and accuracies of
# classifiers trained by DP-SGD on the real images: tables 1 and 2 of DPDM (arXiv 2210.09929, ICLR version).
PAPER: dict[tuple[str, str], tuple[list[float], float, list[float]]] = {
    ("mnist", "10"): ([90.8, 94.8, 98.1], 5.01, [91.6, 92.9, 96.4]),
    ("mnist", "1"): ([86.7, 91.6, 95.3], 23.4, [89.1, 89.6, 88.2]),
    ("mnist", "0.2"): ([81.0, 81.7, 86.3], 61.9, [83.8, 82.0, 69.9]),
    ("fashion-mnist", "10"): ([81.1, 83.0, 86.2], 18.6, [83.3, 83.9, 77.1]),
    ("fashion-mnist", "1"): ([76.3, 76.9, 79.4], 37.8, [79.6, 79.6, 70.5]),
    ("fashion-mnist", "0.2"): ([70.4, 71.3, 72.3], 78.4, [74.8, 73.9, 59.5]),
}
# The authors' network resizes by itself.
PAPER_RESIZE = "legacy_tensorflow"
BUDGETS = ("full", "gpu25", "cpu150", "cpu30")


def main() -> None:
    """Add a row, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", required=True)
    parser.add_argument("--epsilon", required=True)
    parser.add_argument("--budget", default="baseline")
    parser.add_argument("--command", required=True)
    parser.add_argument("--baseline", action="store_true")
    given = parser.parse_args()
    row: dict[str, Any] = {"dataset": given.set, "epsilon": float(given.epsilon), "delta": 1e-5}
    row |= (
        baseline(given.out) if given.baseline else {"budget": given.budget, **measured(given.out)}
    )
    row |= {"machine": machine(), "commit": commit(), "command": given.command}
    with LINES.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    write_page()
    write_forecast()
    print(json.dumps(row, indent=2))


def measured(out: Path) -> dict[str, Any]:
    """The figures of a finished row."""
    statement = load(out / "statement.json")
    scores = load(out / "private" / "classify.json")
    fid = out / "private" / "fid.json"
    return {
        **accuracies_in(scores),
        "images": scores["n"],
        **(inception(load(fid)) if fid.is_file() else {"fid": None}),
        "pixels": distance(load(out / "private" / "pixels.json")),
        **of_features(load(out / "private" / "scattering.json")),
        **planned(statement),
        "minutes": minutes(out),
    }


def baseline(out: Path) -> dict[str, Any]:
    """Accuracies of classifiers that were trained on the real images."""
    scores = load(out / "classify.json")["baseline"]
    return {
        "budget": f"baseline {scores['kind']}",
        **accuracies_in(scores),
        "images": scores["n"],
        **planned(scores["privacy"]),
        "minutes": minutes(out),
    }


def accuracies_in(scores: dict[str, Any]) -> dict[str, float]:
    """In % of the test images, of each classifier."""
    names = ("logreg", "mlp", "cnn", "scattering")
    return {name: round(scores[name], 2) for name in names if name in scores}


def planned(statement: dict[str, Any]) -> dict[str, Any]:
    """What a statement says of how its epsilon was spent."""
    plan = statement["plan"]
    return {
        "claim": statement["epsilon"],
        "warm_start": plan["warm_start"],
        "warm_sigma": plan["warm_sigma"],
        "sigma": plan["sigma"],
        "steps": plan["steps"],
        "copies": plan["noise_multiplicity"],
        "epochs": round(plan["steps"] * plan["sample_rate"], 2),
    }


def minutes(out: Path) -> float:
    """That the row took, in all its parts."""
    seconds = Path(f"{out}.seconds").read_text(encoding="utf-8").split()
    return round(sum(map(int, seconds)) / 60, 1)


def distance(score: dict[str, Any]) -> float:
    """Against the training images, as the paper measures it."""
    return round(float(score["fid"]["train"]), 3)


def of_features(score: dict[str, Any]) -> dict[str, Any]:
    """How far, how faithful and how varied by scattering features, against the training images."""
    kinds = score["precision_recall"]["train"]
    return {
        "distance": round(1000 * float(score["fid"]["train"]), 2),
        "precision": round(kinds["precision"], 3),
        "recall": round(kinds["recall"], 3),
    }


def inception(score: dict[str, Any]) -> dict[str, Any]:
    """A FID that may stand beside the paper's, and how its images were resized."""
    if score["extractor"] != "inception" or score["resize"] != PAPER_RESIZE:
        raise SystemExit(
            f"a distance by {score['extractor']}, resize {score['resize']}, does not compare with the paper's; "
            f"measure it again by inception with --resize {PAPER_RESIZE}"
        )
    return {"fid": distance(score), "fid_resize": score["resize"]}


def load(path: Path) -> dict[str, Any]:
    """A JSON object."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def machine() -> str:
    """The GPU if there is one, else the processor and how many of its cores may be used."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line for line in info.read_text(encoding="utf-8").splitlines() if "model name" in line
        ]
        model = names[0].split(":", 1)[1].strip() if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} core{'s' if cores != 1 else ''}"


def commit() -> str:
    """Of this repository; with a + when the package is not as committed."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(HERE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", ":/dpdm_cli")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def write_forecast() -> None:
    """What `dpdm train` compares a run with before it begins: the last row of each set and epsilon on two cores."""
    rows = {}
    for line in LINES.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["budget"] in ("cpu30", "quickstart"):
            rows[row["dataset"], row["epsilon"]] = row
    kept = ("dataset", "epsilon", "steps", "cnn")
    lines = [json.dumps({name: row[name] for name in kept}) for _, row in sorted(rows.items())]
    if FORECAST.parent.is_dir():  # not beside a copy of this folder
        FORECAST.write_text("[\n  " + ",\n  ".join(lines) + "\n]\n", encoding="utf-8")


def write_page() -> None:
    """Put all rows between the marks of RESULTS.md."""
    lines = [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines()]
    last = {(row["dataset"], f"{row['epsilon']:g}", row["budget"]): row for row in lines}
    table = [
        "| set, epsilon | budget | LR | MLP | CNN | images | pixels | scattering | FID | sigma, steps "
        "| minutes, machine | commit |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (dataset, epsilon), (accuracies, fid, by_dp_sgd) in PAPER.items():
        name = f"{dataset}, {epsilon}"
        table.append(f"| **{name}** | paper | {cells(accuracies)} | 60,000 | | | {fid} | | | |")
        for budget in BUDGETS:
            row = last.get((dataset, epsilon, budget))
            if row is None:
                table.append(f"| {name} | {budget} | not run | | | | | | | | | |")
                continue
            shown = "" if row["fid"] is None else row["fid"]
            measured = f"{accuracies_of(row)} | {row['images']:,} | {row['pixels']} | {by_scattering(row)} | {shown}"
            made = made_by(row)
            table.append(f"| {name} | {budget} | {measured} | {made} | {row['commit']} |")
        by_others = "DP-SGD on real images"
        table.append(f"| {name} | {by_others}, paper | {cells(by_dp_sgd)} | 60,000 | | | | | | |")
        if row := last.get((dataset, epsilon, "baseline dp-sgd")):
            measured = f"{accuracies_of(row)} | {row['images']:,} | | |"
            table.append(
                f"| {name} | {by_others}, ours | {measured} | {made_by(row)} | {row['commit']} |"
            )
        if row := last.get((dataset, epsilon, "baseline scattering")):
            measured = f"{row['scattering']:.1f} | | | {row['images']:,} | | |"
            what = "scattering, private linear classifier on real images, ours"
            table.append(f"| {name} | {what} | {measured} | {made_by(row)} | {row['commit']} |")
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(
        before + BEGIN + "\n" + "\n".join(table) + "\n\n" + END + after, encoding="utf-8"
    )


def accuracies_of(row: dict[str, Any]) -> str:
    """Those of a row, as cells."""
    return cells([row[name] for name in ("logreg", "mlp", "cnn")])


def by_scattering(row: dict[str, Any]) -> str:
    """Distance, precision and recall, as one cell; older rows have none."""
    if "distance" not in row:
        return ""
    return f"{row['distance']}, {row['precision']:.2f}, {row['recall']:.2f}"


def made_by(row: dict[str, Any]) -> str:
    """How much noise and how many steps, how long and where, as cells."""
    minutes = "" if row["minutes"] is None else f"{row['minutes']}, "
    return f"{row['sigma']:.4g}, {row['steps']:,} | {minutes}{row['machine']}"


def cells(numbers: list[float]) -> str:
    """Three accuracies as cells."""
    return " | ".join(f"{number:.1f}" for number in numbers)


if __name__ == "__main__":
    main()
