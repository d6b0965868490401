"""Whether a run may go on: the same data, mode and settings as it was started with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from dpdm_cli.data import ImageSet
from dpdm_cli.errors import DamagedFileError, PrivacyError
from dpdm_cli.training.config.planning import asked_for
from dpdm_cli.training.config.public_facts import Stated
from dpdm_cli.training.config.settings import TrainSettings

_FACTS = {
    *("data", "private", "settings", "dataset_size", "plan", "init_from", "salt", "fingerprint"),
    *("done", "ledger"),
}
"""What every resume state says; see `Setup.facts`."""

_FREE_TO_CHANGE = {"micro_batch", "precision"}
"""Settings a resumed run may change: they touch speed, not the mechanism."""


def resumed_settings(
    saved: dict[str, Any],
    wanted: TrainSettings,
    origins: dict[str, str],
    data: str,
    private: bool,
) -> TrainSettings:
    """The saved run's settings, with what may change taken from `wanted`.

    Raises:
        PrivacyError: something explicitly asked for differs from what the run was started with.
        DamagedFileError: the saved settings make no sense, or the state lacks something.
    """
    if missing := _FACTS - saved.keys():
        raise DamagedFileError(
            f"the resume state lacks {', '.join(sorted(missing))}",
            "take it as it was written, or start a new run in another --out",
        )
    try:
        stored: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in saved["settings"].items()
        }
        before = TrainSettings(**stored)
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(f"the resume state's settings are damaged: {error}") from error
    if saved.get("data") != data or saved.get("private") != private:
        was = f"{saved.get('data')}{'' if saved.get('private') else ' --non-private'}"
        raise PrivacyError(f"this run was started with {was}", "resume with the same data and mode")
    for name in asked_for(origins):
        old, new = getattr(before, name), getattr(wanted, name)
        if name in _FREE_TO_CHANGE:
            before = replace(before, **{name: new})
        elif old != new:
            raise PrivacyError(
                f"{name} is {new} ({origins[name]}), but the run was started with {old}",
                "resume with the run's own settings, or start a new run in another --out",
            )
    return before


def resumed_stated(saved: dict[str, Any], wanted: Stated) -> Stated:
    """What was said of the images when the run was started.

    Raises:
        PrivacyError: classes or channels are given that differ.
        DamagedFileError: what was saved makes no sense.
    """
    if "stated" not in saved:
        raise DamagedFileError(
            "the resume state is of an earlier release of dpdm: it does not say what was taken as public",
            "finish it with the release that began it, or start a new run in another --out",
        )
    try:
        classes = saved["stated"]["classes"]
        said = {**saved["stated"], "classes": None if classes is None else tuple(classes)}
        before = Stated(**said)
    except (KeyError, TypeError) as error:
        raise DamagedFileError(f"the resume state's classes are damaged: {error}") from error
    for name in ("classes", "channels"):
        old, new = getattr(before, name), getattr(wanted, name)
        if new not in (None, old):
            raise PrivacyError(
                f"{name} is {new}, but the run was started with {old}",
                "resume with what was stated then, or start a new run in another --out",
            )
    return before


def fingerprint(images: ImageSet, salt: str, saved: dict[str, Any] | None) -> str:
    """A salted digest of the private images, so that a resumed run notices other data. Stays under private/.

    Of a prepared file that of its description, which holds the images' SHA-256; `ImageSet.verify` compares them.

    Raises:
        PrivacyError: the images are not those the run was started with.
    """
    digest = hashlib.sha256(salt.encode())
    if images.content is not None:
        digest.update(images.content.encode())
    else:
        digest.update(images.images.contiguous().numpy().data)
        if images.labels is not None:
            digest.update(images.labels.contiguous().numpy().data)
    digest.update(json.dumps(images.classes).encode())
    found = digest.hexdigest()
    if saved and saved["fingerprint"] != found:
        raise PrivacyError(
            "the images are not the ones this run was started with",
            "put the original images back, or start a new run: its cost adds to this one's",
        )
    return found
