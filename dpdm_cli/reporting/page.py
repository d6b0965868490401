"""A page about a model and what was drawn from it: the values that it shows, and their HTML.

Everything on it is made from what was verified. No name that somebody chose, and no path, is taken for markup, and the
page itself forbids scripts and connections.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from dpdm_cli import __version__
from dpdm_cli.privacy.accounting.attack_risk import AttackRisk
from dpdm_cli.privacy.accounting.claims import round_up
from dpdm_cli.privacy.statement import Statement
from dpdm_cli.publishing.claim_sections import claimed_rows, made_rows, risk_words, said_rows
from dpdm_cli.reporting.budget import BudgetPart
from dpdm_cli.reporting.pictures import data_uri, shown_width, strip
from dpdm_cli.reporting.private_figures import PrivateFigures
from dpdm_cli.sampling.png import Pixels
from dpdm_cli.sampling.sample_metadata import SampleMetadata

_BESIDE_THE_PICTURE = ("mu of Gaussian DP", "epsilon without amplification")
"""Figures of the risk that no bar shows."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Images of one class, as one picture; `name` is empty without classes."""

    name: str
    uri: str
    width: int
    count: int

    @classmethod
    def of(cls, name: str, images: Sequence[Pixels]) -> Row:
        """Of images [C, H, W], uint8."""
        picture = strip(images)
        return cls(name=name, uri=data_uri(picture), width=shown_width(picture), count=len(images))


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A set of images that a page shows.

    Attributes:
        title: what it is.
        about: how it was drawn, by name.
        rows: its first images by class.
        left_out: classes that are not shown.
        loading: lines of Python that read it; none for images drawn for the page alone.
        checked: what was found in order, in words.
        private: what real images say of it.
    """

    title: str
    about: dict[str, str]
    rows: tuple[Row, ...]
    left_out: int = 0
    loading: str = ""
    checked: tuple[str, ...] = ()
    private: PrivateFigures | None = None


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a report shows.

    Attributes:
        statement: the claim.
        risk: what its plan lets somebody find out at most.
        budget: its parts.
        dataset: a named set, or `custom`.
        model: facts of the model, by name; empty where it was not given.
        checked: what was found in order of the model, in words.
        epsilon_by: recomputed, by accountant.
        drawn: sets of images.
    """

    statement: Statement
    risk: AttackRisk
    budget: tuple[BudgetPart, ...]
    dataset: str
    model: dict[str, str] = field(default_factory=dict)
    checked: tuple[str, ...] = ()
    epsilon_by: dict[str, float]
    drawn: tuple[Drawn, ...]

    @property
    def is_private(self) -> bool:
        """Whether real images have a part in it."""
        return any(each.private for each in self.drawn)

    @property
    def plan(self) -> dict[str, str]:
        """The mechanism, for those who know it."""
        claimed = claimed_rows(self.statement)
        rows = {name: value for name, value in claimed.items() if value is not None}
        rows |= {name: risk_words(self.statement.risk)[name] for name in _BESIDE_THE_PICTURE}
        return {name: str(value) for name, value in rows.items()}

    @property
    def circumstances(self) -> dict[str, str]:
        """How the run was made and chosen, and what its publisher says."""
        return {**made_rows(self.statement), **said_rows(self.statement)}

    @property
    def by_epsilon_alone(self) -> tuple[float, str]:
        """How often a guess at even odds is right if epsilon and delta were all that is known, as a share and in words.

        (e^epsilon + delta) / (1 + e^epsilon): Kairouz, Oh and Viswanath, ICML 2015.
        """
        wrong = (1 - self.statement.delta) / (1 + math.exp(min(self.statement.epsilon, 700.0)))
        digits = max(1, min(6, math.ceil(-math.log10(max(wrong, 1e-9))) - 1))
        return (
            1 - wrong,
            f"{100 - math.floor(wrong * 10 ** (2 + digits)) / 10**digits:.{digits}f} %",
        )


def render(page: Page) -> str:
    """The page as HTML that needs no other file."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dpdm_cli.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "rate": lambda rate: f"{100 * rate:g} %",
        "share": lambda share: f"{round(100 * share)} %",
    }
    return environment.get_template("report.html").render(
        page=page,
        statement=page.statement,
        version=__version__,
        record=page.statement.plan.record,
        whose="images that are not published" if page.dataset == "custom" else page.dataset,
        strip=strip,
        uri=data_uri,
    )


def loading(metadata: SampleMetadata) -> str:
    """Lines of Python that read a set of samples, FOLDER being where it lies."""
    if metadata.format == "npz":
        labels = '; labels = data["labels"]' if metadata.cycle else ""
        return f'import numpy\n\ndata = numpy.load("FOLDER/samples.npz")\nimages = data["images"]{labels}'
    if metadata.format == "png" and metadata.cycle and metadata.album.indices:
        member = PurePosixPath(metadata.album.member(metadata.album.indices[0]))
        root = "/".join(["FOLDER", *member.parts[:-2]])
        return f'from torchvision.datasets import ImageFolder\n\nimages = ImageFolder("{root}")'
    place = "FOLDER" if metadata.format == "png" else f"FOLDER/samples.{metadata.format}"
    return f'from dpdm_cli.data import load_images\n\nimages = load_images("{place}")'


def _percent(share: float, digits: int = 1) -> str:
    """A share as a percentage, rounded up: an upper bound stays one."""
    return f"{round_up(100 * share, digits):.{digits}f} %"
