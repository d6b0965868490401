"""What the forecast says a run takes, beside what it takes: `python tests/benchmarks/forecasts.py`.

Short runs of images of noise and of public sets (which must lie in `DPDM_DATA_DIR`), in seconds of the processor for
warm start, steps and grid together; and the seconds by the clock from the plan's line to the warm start.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dpdm_cli.reporter import SilentReporter
from dpdm_cli.training import run
from dpdm_cli.training.trainer import Trainer

NOISE: dict[str, tuple[int, int, int]] = {
    "32x32 colour": (32, 3, 4000),
    "64x64 grey": (64, 1, 3000),
    "64x64 colour": (64, 3, 3000),
    "128x128 colour": (128, 3, 2000),
}
"""Pixels a side, colours, images."""

RUNS: list[tuple[str, dict[str, Any]]] = [
    ("mnist", {"preset": "small", "steps": 25}),
    ("fashion-mnist", {"preset": "small", "steps": 15}),
    ("digits", {"preset": "small", "steps": 150}),
    ("32x32 colour", {"preset": "small", "steps": 15}),
    ("64x64 grey", {"preset": "small", "steps": 15, "batch_size": 128}),
    ("64x64 colour", {"preset": "small", "steps": 15}),
    ("128x128 colour", {"preset": "small", "steps": 8, "batch_size": 64}),
    ("digits", {"preset": "paper", "steps": 3, "batch_size": 32, "noise_multiplicity": 4}),
]


class _Listening(SilentReporter):
    """One that a forecast is made for."""

    quiet = False


def measured(name: str, settings: dict[str, Any]) -> tuple[float, float, float]:
    """Seconds foretold, seconds taken, seconds before them."""
    taken, at = [0.0], {}
    ordinary = {(of, what): getattr(of, what) for of, what in _PARTS}
    foresee, remark = run.foresee, run._remark
    costs = []

    def timed(part: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            at.setdefault("training", time.monotonic())
            before = time.process_time()
            try:
                return part(*args, **kwargs)
            finally:
                taken[0] += time.process_time() - before

        return counted

    def kept(*args: Any, **kwargs: Any) -> Any:
        forecast = foresee(*args, **kwargs)
        costs.append(forecast.cost)
        taken[0] = 0.0  # it takes a warm start and steps of its own
        at.pop("training", None)
        return forecast

    def marked(*args: Any, **kwargs: Any) -> None:
        at["plan"] = time.monotonic()
        remark(*args, **kwargs)

    try:
        for (of, what), part in ordinary.items():
            setattr(of, what, timed(part))
        run.foresee, run._remark = kept, marked
        with tempfile.TemporaryDirectory() as place:
            data, public = _data(name, Path(place))
            run.train(
                data, Path(place) / "run", epsilon=10.0, reporter=_Listening(), **public, **settings
            )
    finally:
        for (of, what), part in ordinary.items():
            setattr(of, what, part)
        run.foresee, run._remark = foresee, remark
    (cost,) = costs
    return cost.warm_start + cost.steps + cost.grid, taken[0], at["training"] - at["plan"]


_PARTS: list[tuple[Any, str]] = [(Trainer, "warm_up"), (run, "take_steps"), (run, "draw_grid")]


def _data(name: str, place: Path) -> tuple[str, dict[str, Any]]:
    """A set, made of noise where it is not a named one, and what is to be stated of it."""
    if name not in NOISE:
        return name, {}
    side, channels, count = NOISE[name]
    random = np.random.default_rng(0)
    shape = (count, side, side, channels) if channels > 1 else (count, side, side)
    np.savez(
        place / "images.npz",
        images=random.integers(0, 256, shape, dtype=np.uint8),
        labels=random.integers(0, 2, count),
        classes=np.array(["a", "b"]),
    )
    public = {"dataset_size": count, "image_size": side, "channels": channels}
    return str(place / "images.npz"), {**public, "classes": ["a", "b"], "delta": 1e-5}


def main() -> None:
    print(
        "| run | foretold, s | taken, s | plan to warm start, s by the clock |\n|---|---|---|---|"
    )
    for name, settings in RUNS:
        foretold, taken, before = measured(name, settings)
        words = ", ".join(f"{key} {value}" for key, value in settings.items())
        print(f"| {name}, {words} | {foretold:.1f} | {taken:.1f} | {before:.1f} |", flush=True)


if __name__ == "__main__":
    main()
