"""What to expect of the images, before anything is spent: in words, from public figures alone.

Measured rows of public sets (examples/reproduce) stand beside the run's figures. What orders them is a rule of thumb:
how many numbers an image has for each unit of N x epsilon, which is how much noise a private average of N images holds.
It says nothing of what the images show.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources

from dpdm_cli.data.named import NAMED
from dpdm_cli.stored import Json

_SIDES = (64, 32, 28, 16, 8)  # that are suggested
_FEW = 100  # images of a class
_SHORT = 0.5  # of the fewest steps that were measured


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is public of a run.

    Attributes:
        dataset_size: N.
        side, channels: of an image.
        classes: how many; 0 without labels.
        epsilon: of the claim.
        steps: of the run.
    """

    dataset_size: int
    side: int
    channels: int
    classes: int
    epsilon: float
    steps: int

    @property
    def hardness(self) -> float:
        """Numbers in an image for each unit of N x epsilon."""
        return self.side**2 * self.channels / (self.dataset_size * self.epsilon)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One row that was measured.

    Attributes:
        dataset: a named set.
        figures: of the run on it.
        cnn: accuracy in % on real test images of a CNN trained on the synthetic ones.
    """

    dataset: str
    figures: Figures
    cnn: float


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is to be expected of a run.

    Attributes:
        figures: of the run.
        rows: what was measured, the easiest first.
        words: sentences, the most important first.
    """

    figures: Figures
    rows: tuple[Measured, ...]
    words: tuple[str, ...]

    def to_dict(self) -> Json:
        """For JSON."""
        return {
            "expect": list(self.words),
            "hardness": float(f"{self.figures.hardness:.3g}"),
            "measured": [
                {
                    "dataset": row.dataset,
                    **asdict(row.figures),
                    "hardness": float(f"{row.figures.hardness:.3g}"),
                    "cnn": row.cnn,
                }
                for row in self.rows
            ],
        }


@cache
def measured() -> tuple[Measured, ...]:
    """The rows that come with the package, the easiest first; `examples/reproduce/record.py` writes them."""
    text = (resources.files(__package__) / "measured.json").read_text(encoding="utf-8")
    rows = []
    for row in json.loads(text):
        facts = NAMED[row["dataset"]]
        figures = Figures(
            dataset_size=facts.train_size,
            side=facts.image_size,
            channels=facts.channels,
            classes=len(facts.classes),
            epsilon=row["epsilon"],
            steps=row["steps"],
        )
        rows.append(Measured(dataset=row["dataset"], figures=figures, cnn=row["cnn"]))
    return tuple(sorted(rows, key=lambda row: (row.figures.hardness, row.dataset)))


def outlook(figures: Figures) -> Outlook:
    """What to expect of a private run with these figures."""
    known = measured()
    goal = known[len(known) // 2]
    words = []
    times = figures.hardness / known[-1].figures.hardness
    nearest = min(known, key=lambda row: abs(math.log(row.figures.hardness / figures.hardness)))
    new = ""
    if figures.channels > 1 or figures.side > _largest_side():
        new = "colour images" if figures.channels > 1 else "images as large as these"
    if times > 1:
        words.append(
            f"expect noise: an image has {_short(figures.hardness)} numbers for each unit of N x epsilon, "
            f"{_short(times)} times as many as in the hardest sets measured here: {_like(known[-1])}"
        )
    elif new:
        words.append(
            "expect noise, or blurs at best: photographs are harder than the digits and garments with such figures, "
            f"which are {_like(nearest)}"
        )
    else:
        words.append(f"by its figures this run is most like {_like(nearest)}")
    if new:
        words.append(f"nothing comparable was measured here: no {new}")
    if figures.hardness > goal.figures.hardness and (times > 1 or new):
        words.append(f"what helps: {_ways_out(figures, goal)}")
    elif figures.channels > 1:
        words.append("what helps: grey images (--channels 1), which have a third of the numbers")
    if figures.classes and figures.dataset_size < _FEW * figures.classes:
        words.append(
            f"about {figures.dataset_size // figures.classes} images a class: the noise is the same for every class, "
            "so join classes, or leave small ones out"
        )
    fewest = min(row.figures.steps for row in known)
    if figures.steps < _SHORT * fewest:
        words.append(
            f"{figures.steps:,} steps are few: the rows measured took {fewest:,} and more, so expect little beyond "
            "what the warm start gives"
        )
    return Outlook(figures=figures, rows=known, words=tuple(words))


def _like(row: Measured) -> str:
    """A row, and those that are as hard, with what they gave."""
    same = [other for other in measured() if other.figures.hardness == row.figures.hardness]
    names = " and ".join(f"{other.dataset} (CNN {other.cnn:.1f} %)" for other in same)
    return f"{names} at epsilon {row.figures.epsilon:g}"


def _largest_side() -> int:
    return max(row.figures.side for row in measured())


def _ways_out(figures: Figures, goal: Measured) -> str:
    """What would make a run as easy as one that was measured."""
    ways = []
    grey = "grey images (--channels 1)" if figures.channels > 1 else ""
    allowed = goal.figures.hardness * figures.dataset_size * figures.epsilon  # numbers an image
    side = figures.side
    if side**2 > allowed:
        side = next((s for s in _SIDES if s < side and s**2 <= allowed), _SIDES[-1])
    if side < figures.side:
        smaller = f"{side}x{side} (--image-size {side})"
        ways.append(f"{grey} of {smaller}" if grey else smaller)
    elif grey:
        ways.append(grey)
    needed = figures.side**2 * figures.channels / (goal.figures.hardness * figures.epsilon)
    if needed > figures.dataset_size:
        ways.append(f"{_short(needed)} images of this size")
    return f"{', or '.join(ways)}: by these figures as hard as {goal.dataset} at epsilon {goal.figures.epsilon:g}"


def _short(number: float) -> str:
    """Two significant digits."""
    rounded = float(f"{number:.1e}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"
