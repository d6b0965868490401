"""What whoever publishes says beside the claim: checked as far as it can be, before anything is written."""

from __future__ import annotations

import difflib
from dataclasses import replace
from importlib import resources

from dpdm_cli.choices import ChosenBy, SeenBy
from dpdm_cli.errors import UsageError
from dpdm_cli.privacy.circumstances import LONGEST_TEXT, Circumstances, Said, is_short_line


def with_words(
    about: Circumstances,
    *,
    runs: int | None = None,
    chosen_by: ChosenBy | None = None,
    seen_by: SeenBy | None = None,
    purpose: str | None = None,
    images_from: str | None = None,
    contact: str | None = None,
    license: str | None = None,
) -> Circumstances:
    """What is known of a run, with what is said now; a number and a choice that are not given stay as they were.

    Texts do not: those of a model that somebody else published are about that model, in that somebody's words.

    Raises:
        UsageError: a text that is no short line, a license that is not in SPDX's list, or numbers that contradict.
    """
    for option, text in (("purpose", purpose), ("source", images_from), ("contact", contact)):
        if text is not None and not is_short_line(text):
            raise UsageError(
                f"--{option} must be one line of 1 to {LONGEST_TEXT} characters that print",
                "shorten it, or take out line breaks and control characters",
            )
    said = Said(
        purpose=purpose, source=images_from, contact=contact, license=license and _spdx(license)
    )
    given = {"runs": runs, "chosen_by": chosen_by, "seen_by": seen_by}
    stated = {name: value for name, value in given.items() if value is not None}
    try:
        return replace(about, said=said, **stated)  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(
            f"what is said of the selection makes no sense: {error}",
            "give --runs and --chosen-by as they were",
        ) from error


def _spdx(name: str) -> str:
    """The identifier as SPDX writes it; LicenseRef-... is anybody's own."""
    if name.startswith("LicenseRef-") and len(name) <= 64 and name[11:].replace("-", "").isalnum():
        return name
    text = (resources.files(__package__) / "spdx_licenses.txt").read_text(encoding="utf-8")
    known = {identifier.casefold(): identifier for identifier in text.split()}
    if name.casefold() not in known:
        near = difflib.get_close_matches(name.casefold(), known, n=3)
        meant = ", ".join(known[word] for word in near) or "CC-BY-4.0, CC0-1.0 or LicenseRef-..."
        raise UsageError(
            f"--license {name[:80]!a} is no identifier of the SPDX list",
            f"give one as https://spdx.org/licenses has it: {meant}",
        )
    return known[name.casefold()]
