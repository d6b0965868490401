"""What belongs to a claim and follows from no plan: how the run was made, how it was chosen, and what is said of it.

What was recorded is recorded by the run itself. What whoever publishes it says is marked as theirs: closed lists and
numbers, and four short texts, which nothing is made of but their own lines in a card.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime

from dpdm_cli.stored import Json, check_keys, json_object, understood, value_of

NOT_STATED = "not stated"
"""In the place of what only a person can say."""

NOT_RECORDED = "not recorded"
"""In the place of what a run notes of itself, where it did not."""

CHOSEN_BY = {
    "only-run": "it is the only one",
    "before": "chosen before any of them was made",
    "random": "drawn at random",
    "public-images": "by figures of public images",
    "samples": "by what they draw, without the private images",
    "private-images": "by figures of the private images, which no claim here covers",
    "other": "in another way",
}
"""How the published run was chosen among those on the same images, in words."""

SEEN_BY = {
    "holder": "only those who hold the images, on machines of their own",
    "operator": "also whoever operates the machines that trained",
    "others": "also others",
}
"""Who saw the images themselves, in words."""

MACHINES = ("cpu", "cuda", "mps")
PASSED = "passed"

LONGEST_TEXT = 300  # characters

_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,2}((a|b|rc|\.dev)[0-9]{1,4})?")
_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")
MOST_RUNS = 10**6


@dataclass(frozen=True, kw_only=True)
class Said:
    """What whoever publishes says, in their words; None is not stated. Nobody checks it.

    Attributes:
        purpose: what it is meant for.
        source: where the private images are from.
        contact: who answers questions.
        license: an SPDX identifier, of what is published.

    Raises:
        ValueError: a text of more than one short line, or a license of another form.
    """

    purpose: str | None = None
    source: str | None = None
    contact: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        for name in ("purpose", "source", "contact"):
            text = getattr(self, name)
            if text is not None and not is_short_line(text):
                raise ValueError(f"{name} is no line of 1 to {LONGEST_TEXT} characters that print")
        if self.license is not None and not _SPDX.fullmatch(self.license):
            raise ValueError("license has not the form of an SPDX identifier")


NOTHING_SAID = Said()


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """Of a run that claims privacy. What is empty or None was not recorded, or not stated.

    Attributes:
        versions: releases of dpdm that trained it, in their order.
        machines: classes of machines that trained it, of `MACHINES`, in alphabetical order.
        begun: the day, UTC, of its beginning. That of its end would follow the clock of the steps, and so the batches.
        checks: `PASSED` where every process replayed the private step on probe records before its first step.
        noise_from_system: whether batches and noise are known to come from the operating system's entropy.
        runs: how many runs were made on these images.
        chosen_by: how the published one was chosen, of `CHOSEN_BY`.
        seen_by: who saw the images, of `SEEN_BY`.
        said: see `Said`.

    Raises:
        ValueError: a value that none of these can be.
    """

    versions: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    begun: str | None = None
    checks: str | None = None
    noise_from_system: bool = False
    runs: int | None = None
    chosen_by: str | None = None
    seen_by: str | None = None
    said: Said = field(default=NOTHING_SAID)

    def __post_init__(self) -> None:
        if not all(_VERSION.fullmatch(version) for version in self.versions):
            raise ValueError("versions hold no release of dpdm")
        if list(self.machines) != sorted({*self.machines} & {*MACHINES}):
            raise ValueError("machines are of no known class")
        if len({*self.versions}) != len(self.versions):
            raise ValueError("versions hold one twice")
        if self.begun is not None and not _is_day(self.begun):
            raise ValueError("date is no day")
        lists = (
            ("checks_before_training", self.checks, (PASSED,)),
            ("chosen_by", self.chosen_by, CHOSEN_BY),
            ("images_seen_by", self.seen_by, SEEN_BY),
        )
        for name, value, values in lists:
            if value not in (None, *values):
                raise ValueError(f"{name} is none of {', '.join(values)}")
        if self.runs is not None and not 1 <= self.runs <= MOST_RUNS:
            raise ValueError(f"runs is no number from 1 to {MOST_RUNS:,}")
        if self.chosen_by == "only-run" and self.runs not in (None, 1):
            raise ValueError(f"the only run cannot be one of {self.runs}")

    def went_on(self, version: str, machine: str, day: str) -> Circumstances:
        """With another process that trains: its release of dpdm, its class of machine and its day."""
        begun = self.begun if self.versions else day
        return replace(
            self,
            versions=self.versions if version in self.versions else (*self.versions, version),
            machines=tuple(sorted({*self.machines, machine})),
            begun=begun,
            checks=PASSED,
            noise_from_system=True,
        )

    @property
    def selection_text(self) -> str:
        """How many runs there were and how this one was chosen, in words."""
        runs = NOT_STATED if self.runs is None else f"{self.runs:,}"
        chosen = NOT_STATED if self.chosen_by is None else CHOSEN_BY[self.chosen_by]
        return f"runs made on these images: {runs}; how this one was chosen: {chosen}"

    @property
    def trust_text(self) -> str:
        """Whom one has to trust, in words."""
        seen = NOT_STATED if self.seen_by is None else SEEN_BY[self.seen_by]
        noise = "the operating system" if self.noise_from_system else NOT_RECORDED
        return (
            f"central: whoever trained held all images as they are. Who saw them: {seen}. "
            f"Trained on: {', '.join(self.machines) or NOT_RECORDED}. Batches and noise came from: {noise}."
        )

    def to_json(self) -> Json:
        """Their part of a statement, in words where something is not known."""
        return {
            "tool": {"name": "dpdm", "versions": list(self.versions) or NOT_RECORDED},
            "date": self.begun or NOT_RECORDED,
            "checks_before_training": self.checks or NOT_RECORDED,
            "trust_model": {
                "model": "central",
                "images_seen_by": self.seen_by or NOT_STATED,
                "machines": list(self.machines) or NOT_RECORDED,
                "noise_from": "the operating system" if self.noise_from_system else NOT_RECORDED,
            },
            "selection": {
                "runs": self.runs or NOT_STATED,
                "chosen_by": self.chosen_by or NOT_STATED,
            },
            "said_by_the_publisher": {
                name: text or NOT_STATED for name, text in asdict(self.said).items()
            },
        }

    @classmethod
    def from_json(cls, values: Json, what: str) -> Circumstances:
        """What `to_json` described, whatever else is in `values`.

        Args:
            values: a JSON object.
            what: whose keys these are, for messages.

        Raises:
            DamagedFileError: it did not describe them; the message names the key.
        """

        def part(name: str, *keys: str) -> Json:
            found: Json = value_of(values, name, what, json_object)
            check_keys(found, keys, f"{what}: {name}")
            return found

        def known(value: object, missing: str = NOT_STATED) -> object:
            return None if value == missing else value

        tool = part("tool", "name", "versions")
        trust = part("trust_model", "model", "images_seen_by", "machines", "noise_from")
        selection = part("selection", "runs", "chosen_by")
        said = part("said_by_the_publisher", "purpose", "source", "contact", "license")
        stored = {
            "versions": known(tool["versions"], NOT_RECORDED) or [],
            "machines": known(trust["machines"], NOT_RECORDED) or [],
            "begun": known(values.get("date"), NOT_RECORDED),
            "checks": known(values.get("checks_before_training"), NOT_RECORDED),
            "noise_from_system": trust["noise_from"] != NOT_RECORDED,
            "runs": known(selection["runs"]),
            "chosen_by": known(selection["chosen_by"]),
            "seen_by": known(trust["images_seen_by"]),
            "said": {name: known(text) for name, text in said.items()},
        }
        return understood(cls, stored, what)


NOTHING_KNOWN = Circumstances()
"""Of a run that noted nothing of itself."""


def today() -> str:
    """The day, UTC."""
    return datetime.now(UTC).date().isoformat()


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def is_short_line(text: object) -> bool:
    """Whether this is one line that prints, of a length that a table holds, and not the word for its absence."""
    return (
        isinstance(text, str)
        and 1 <= len(text) <= LONGEST_TEXT
        and text.isprintable()
        and text == text.strip()
        and text != NOT_STATED
    )
