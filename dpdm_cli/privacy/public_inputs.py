"""What a claim takes as public, and who makes it public.

The mechanism is built from these figures and its outcome shows them, so the claim is about everything else: for each
value of them, data sets that differ by one record are told apart by e^epsilon and delta at most.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from dpdm_cli.stored import understood

SOURCES = {
    "published": "published with the set",
    "stated": "stated by whoever ran this, whatever the images are",
    "declared": "read off the images, which whoever ran this declares to be public knowledge",
}
"""The possible sources of a figure, in words."""

UNLABELLED = "none"
"""The source of class names for images without labels."""

NAMES = {
    "dataset_size": "number of images",
    "classes": "class names",
    "image_size": "image size",
    "channels": "colours",
}
"""The figures in words, where a record is an image."""


def names_for(record: str) -> dict[str, str]:
    """The figures in words, where a record is an image or a person."""
    return NAMES if record == "image" else {**NAMES, "dataset_size": f"number of {record}s"}


@dataclass(frozen=True, kw_only=True)
class PublicInputs:
    """The source of each public figure, one of `SOURCES`.

    Attributes:
        dataset_size: of N.
        classes: of the class names; `UNLABELLED` for images without labels.
        image_size, channels: of the side in pixels, and of whether images are grey or colour.

    Raises:
        ValueError: an unknown source.
    """

    dataset_size: str
    classes: str
    image_size: str
    channels: str

    def __post_init__(self) -> None:
        for name, source in asdict(self).items():
            if source not in SOURCES and (name, source) != ("classes", UNLABELLED):
                raise ValueError(f"{name} cannot be {str(source)[:80]!r}")

    def to_dict(self) -> dict[str, str]:
        """A JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> PublicInputs:
        """The inverse of `to_dict`. Raises DamagedFileError: other names, or an unknown source."""
        return understood(cls, values, "public_inputs")

    @property
    def words(self) -> str:
        """The figures by their sources: `number of images (stated ...); image size, colours (declared ...)`."""
        return self.words_for("image")

    def words_for(self, record: str) -> str:
        """The same for records that are images or persons."""
        figures = names_for(record)
        groups = []
        for source, meaning in SOURCES.items():
            names = [figures[name] for name, found in asdict(self).items() if found == source]
            if names:
                groups.append(f"{', '.join(names)} ({meaning})")
        return "; ".join(groups)

    def text_for(self, record: str) -> str:
        """Sentences for the statement."""
        said = f"Taken as known to everybody: {self.words_for(record)}."
        if "declared" in asdict(self).values():
            said += (
                f" Nothing is claimed about what the declared figures tell: whoever can count all other {record}s "
                "knows from them whether one more is there."
            )
        return said


PUBLISHED = PublicInputs(
    dataset_size="published", classes="published", image_size="published", channels="published"
)
"""Of a named set, taken as it is."""
