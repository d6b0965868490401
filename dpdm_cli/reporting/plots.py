"""Pictures of figures against epsilon, for several plans or several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpdm_cli.errors import UsageError
from dpdm_cli.files import disk_errors, private_folder, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Curve:
    """A figure of each plan or run; None where it is not known."""

    label: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Panel:
    """Figures of one kind.

    Attributes:
        title: what the vertical axis has.
        curves: one for each figure.
        floor: a value that means nothing was found out, drawn as a line; None without.
        is_logarithmic: the vertical axis.
        is_stacked: parts of a whole, as bars.
        is_share: in percent, over all that there may be.
    """

    title: str
    curves: tuple[Curve, ...]
    floor: float | None = None
    is_logarithmic: bool = False
    is_stacked: bool = False
    is_share: bool = False


def check_target(file: Path) -> None:
    """Refuse a picture that cannot be written as it is called, before anything is computed for it.

    Raises:
        UsageError: another suffix than `SUFFIXES`.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"{file}: a picture is a file that ends in {', '.join(SUFFIXES)}",
            f"call it {file.with_suffix('.png').name}",
        )


def draw(epsilons: Sequence[float], panels: Sequence[Panel]) -> Figure:
    """Panels side by side over one axis of epsilon, which is logarithmic.

    Args:
        epsilons: of each plan or run, above 0.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 4.4), dpi=110, layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        if panel.is_stacked:
            _stack(axes, epsilons, panel)
        else:
            _curves(axes, epsilons, panel)
        axes.set_xlabel("epsilon")
        axes.set_title(panel.title, fontsize=10)
        axes.tick_params(labelsize=8)
        if len(panel.curves) > 1 or panel.floor is not None:
            axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17))
    return figure


def write(figure: Figure, file: Path) -> None:
    """Write a picture; one in a folder called private is closed to others.

    Raises:
        ResourceError: it cannot be written; no partial file is left.
    """
    with disk_errors(file, "free some space, or choose another file"):
        is_private = file.parent.name == "private"
        if is_private:
            private_folder(file.parent)
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.touch(0o600 if is_private else 0o666)
            about = {"Date": None} if file.suffix.lower() == ".svg" else None
            figure.savefig(temporary, format=file.suffix[1:].lower(), metadata=about)


def _curves(axes: Axes, epsilons: Sequence[float], panel: Panel) -> None:
    for curve in panel.curves:
        points = sorted(
            (epsilon, value)
            for epsilon, value in zip(epsilons, curve.values, strict=True)
            if value is not None
        )
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=curve.label)
    if panel.floor is not None:
        axes.axhline(panel.floor, color="grey", linestyle=":", label="blind guess at even odds")
    axes.set_xscale("log")
    axes.set_xticks(sorted(set(epsilons)), [f"{value:g}" for value in sorted(set(epsilons))])
    axes.minorticks_off()
    if panel.is_logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.tick_params(which="minor", labelsize=8)
    if panel.is_share:
        axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)


def _stack(axes: Axes, epsilons: Sequence[float], panel: Panel) -> None:
    order = sorted(range(len(epsilons)), key=lambda index: epsilons[index])
    names = [f"{epsilons[index]:g}" for index in order]
    below = [0.0] * len(order)
    for curve in panel.curves:
        heights = [curve.values[index] or 0.0 for index in order]
        axes.bar(range(len(order)), heights, bottom=below, label=curve.label)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    axes.set_xticks(range(len(order)), names)
