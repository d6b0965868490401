"""What samplers do to the variance of data whose denoiser is known: `python tests/benchmarks/samplers.py -n 20000`.

Prints a table in Markdown: how often the denoiser is evaluated, seconds of processor time, and the variance of the
samples in units of the true one, of all axes and of the narrower half of them. An exact sampler has 1.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

from support import gaussian_mixture

from dpdm_cli.diffusion.generation import SamplerSettings

ROWS = [
    *(SamplerSettings(sampler="ddim", steps=steps) for steps in (50, 250)),
    *(SamplerSettings(sampler="stochastic-ddim", steps=steps) for steps in (50, 250)),
    *(SamplerSettings(sampler="heun", steps=steps) for steps in (20, 25, 30, 50)),
    *(replace(SamplerSettings.default(has_prior=True), steps=steps) for steps in (10, 12, 18)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=20_000)
    rows = parser.parse_args().n
    print("| sampler | evaluations | seconds | variance | of the narrower half |")
    print("|---|---|---|---|---|")
    for settings in ROWS:
        mixture = gaussian_mixture.digits()
        start = time.process_time()
        whole, narrow = mixture.spread(settings, rows)
        seconds = time.process_time() - start
        print(f"| {settings} | {mixture.calls} | {seconds:.1f} | {whole:.3f} | {narrow:.3f} |")


if __name__ == "__main__":
    main()
