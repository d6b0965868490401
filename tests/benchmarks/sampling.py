"""What drawing images costs beside the network: `python tests/benchmarks/sampling.py -n 2000 --json`.

Draws images from an untrained network of a preset into a folder of PNGs, as `dpdm sample` does, and measures the time
inside the network: over all workers, as a share of workers times wall-clock time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpdm_cli import sample
from dpdm_cli.checkpoint import Model, save_model
from dpdm_cli.compute.device import resolve_device
from dpdm_cli.compute.threads import workers_on
from dpdm_cli.data import ImageSet
from dpdm_cli.diffusion.denoiser import PARAMETERISATIONS, Denoiser
from dpdm_cli.diffusion.generation import SamplerSettings
from dpdm_cli.diffusion.unet import UNet
from dpdm_cli.privacy.statement import non_private_statement
from dpdm_cli.training.config.network import network_config
from dpdm_cli.training.config.settings import preset_settings


def untrained(preset: str, path: Path) -> None:
    classes = tuple("0123456789")
    blank = ImageSet(
        name="mnist",
        images=torch.zeros(1, 1, 28, 28, dtype=torch.uint8),
        labels=torch.zeros(1, dtype=torch.int64),
        classes=classes,
    )
    config = network_config(blank, preset_settings(preset, "mnist", 10.0))
    model = Model(
        denoiser=Denoiser(UNet(config), PARAMETERISATIONS["edm"]),
        config=config,
        parameterisation="edm",
        classes=classes,
        dataset="mnist",
        statement=non_private_statement(1),
    )
    save_model(path, model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--preset", choices=("paper", "small"), default="small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = resolve_device(options.device)

    inside, lock = [0.0], threading.Lock()
    forward = UNet.forward

    def timed(self: UNet, *arguments: Any) -> Tensor:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        result = forward(self, *arguments)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        with lock:
            inside[0] += time.perf_counter() - start
        return result

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        untrained(options.preset, path)
        totals = []
        for turn, replaced in (("free", forward), ("timed", timed)):
            UNet.forward = replaced  # type: ignore[method-assign]
            start = time.perf_counter()
            settings = SamplerSettings(sampler="ddim", steps=options.steps)
            out = Path(folder) / turn
            sample(path, out, n=options.n, sampler=settings, device=str(device))
            totals.append(time.perf_counter() - start)
    workers = workers_on(device)
    result = {
        "preset": options.preset,
        "device": str(device),
        "n": options.n,
        "evaluations": options.steps,
        "workers": workers,
        "seconds": totals[0],
        "seconds_timed": totals[1],
        "network_share": inside[0] / workers / totals[1],
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(
            f"{options.n} images in {totals[0]:.1f} s; "
            f"{100 * result['network_share']:.0f} % of the workers' time in the network"
        )


if __name__ == "__main__":
    main()
