"""What a set of many images costs to prepare and to train on: `python tests/benchmarks/large_set.py --records 1000000`.

Makes a zip of random 32x32 colour PNGs, prepares it by the command, and begins a run of the small preset on it, each
in a process of its own: compares the file with its SHA-256, makes the warm start, takes private steps. Before it the
same on a hundredth of the images. Times are wall clock; memory is the peak of what is resident, and apart from it what
belongs to the process alone (anonymous) and what is mapped from files.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

STEPS = 30


def make_zip(path: Path, records: int) -> None:
    """Random images in 1,000 classes, stored."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for index in range(records):
            stream = io.BytesIO()
            # Little to decode in an image that is mostly even, as photographs are.
            pixels = np.repeat(random.integers(0, 256, (8, 8, 3), dtype=np.uint8), 4, axis=0)
            image = Image.fromarray(np.repeat(pixels, 4, axis=1))
            image.save(stream, "PNG", compress_level=1)
            archive.writestr(f"{index % 1000:04}/{index:08}.png", stream.getvalue())


def steps_on(path: Path, warm_start: str) -> dict[str, Any]:
    """Warm start and private steps of the small preset, and what this process holds before and after them."""
    import torch

    from dpdm_cli.data import load_images
    from dpdm_cli.privacy.ledger import Ledger
    from dpdm_cli.training.config.network import network_config
    from dpdm_cli.training.config.planning import plan_run
    from dpdm_cli.training.config.settings import merge
    from dpdm_cli.training.trainer import Trainer

    start = time.perf_counter()
    images = load_images(path)
    opened = time.perf_counter() - start
    start = time.perf_counter()
    images.verify()
    verified = time.perf_counter() - start
    settings, _ = merge(
        "custom",
        preset="small",
        flags={"steps": STEPS + 2, "warm_start": warm_start, "micro_batch": 64, "delta": 1e-7},
    )
    plan = plan_run(len(images.images), settings)
    trainer = Trainer(
        network_config(images, settings),
        settings,
        images,
        steps=plan.steps,
        sample_rate=plan.sample_rate,
        ledger=Ledger(plan),
        device=torch.device("cpu"),
    )
    start = time.perf_counter()
    trainer.warm_up()
    warm = time.perf_counter() - start
    warmed = resident()
    trainer.step()  # sets things up
    trainer.step()
    before, seconds = resident(), []
    for _ in range(STEPS):
        start = time.perf_counter()
        trainer.step()
        seconds.append(time.perf_counter() - start)
    after = resident()
    return {
        "records": len(images.images),
        "open_ms": round(1e3 * opened, 1),
        "verify_s": round(verified, 2),
        "warm_start": warm_start,
        "warm_start_s": round(warm, 1),
        "megabytes_warmed": warmed,
        "step_s": round(statistics.median(seconds), 3),
        "megabytes_before": before,
        "megabytes_after": after,
    }


def resident() -> dict[str, float]:
    """Of this process, in megabytes."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    found = {line[0].rstrip(":"): line[1] for line in lines if len(line) > 1}
    return {name: round(int(found[name]) / 1024, 1) for name in ("VmHWM", "RssAnon", "RssFile")}


def prepared(source: Path, out: Path) -> dict[str, Any]:
    """Run the command and watch it."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "dpdm_cli", "prepare", source, out, "--quiet"]
    )
    peak = {"VmHWM": 0, "RssAnon": 0, "RssFile": 0}
    while process.poll() is None:
        try:
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in peak:
                    peak[name] = max(peak[name], int(value.split()[0]))
        except OSError:
            break
        time.sleep(0.05)
    assert process.wait() == 0
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "megabytes_at_most": {name: round(value / 1024, 1) for name, value in peak.items()},
    }


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="for the files; by default a temporary one")
    parser.add_argument("--warm-start", default="moments", choices=("none", "means", "moments"))
    parser.add_argument("--steps-on", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.steps_on:
        print(json.dumps(steps_on(given.steps_on, given.warm_start)))
        return
    found = {}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for records in (given.records // 100, given.records):
            source, out = Path(folder, f"{records}.zip"), Path(folder, f"{records}.safetensors")
            make_zip(source, records)
            found[records] = {"prepare": prepared(source, out)}
            source.unlink()
            command = [sys.executable, __file__, "--steps-on", str(out)]
            command += ["--warm-start", given.warm_start]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[records]["steps"] = json.loads(told)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
