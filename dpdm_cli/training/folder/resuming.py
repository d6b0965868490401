"""Whether a run may continue: the same data, mode and settings as it was started with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from dpdm_cli.data import ImageSet
from dpdm_cli.errors import PrivacyError
from dpdm_cli.training.config.planning import asked_for
from dpdm_cli.training.config.public_facts import Stated
from dpdm_cli.training.config.settings import TrainSettings
from dpdm_cli.training.folder.run_state import RunState

_FREE_TO_CHANGE = {"micro_batch", "precision"}
"""Settings a resumed run may change: they touch speed, not the mechanism."""


def resumed_settings(
    saved: RunState,
    wanted: TrainSettings,
    origins: dict[str, str],
    data: str,
    private: bool,
) -> TrainSettings:
    """The saved run's settings, with what may change taken from `wanted`.

    Raises:
        PrivacyError: something explicitly asked for differs from what the run was started with.
    """
    before, was_private = saved.settings, saved.ledger is not None
    if saved.data != data or was_private != private:
        was = f"{saved.data}{'' if was_private else ' --non-private'}"
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


def resumed_stated(before: Stated, wanted: Stated) -> Stated:
    """What was said of the images when the run was started.

    Raises:
        PrivacyError: classes, channels or ways of reading are given that differ.
    """
    asked = {"classes": wanted.classes, "channels": wanted.channels, **wanted.reading.given()}
    for name, new in asked.items():
        old = getattr(before if hasattr(before, name) else before.reading, name)
        if new not in (None, old):
            raise PrivacyError(
                f"{name} is {new}, but the run was started with {old}",
                "resume with what was stated then, or start a new run in another --out",
            )
    return before


def fingerprint(images: ImageSet, salt: str, saved: RunState | None) -> str:
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
        for numbers in (images.labels, images.persons):
            if numbers is not None:
                digest.update(numbers.contiguous().numpy().data)
    digest.update(json.dumps(images.classes).encode())
    if images.persons is not None:
        digest.update(images.persons.contiguous().numpy().data)
    found = digest.hexdigest()
    if saved and saved.fingerprint != found:
        raise PrivacyError(
            "the images are not the ones this run was started with",
            "put the original images back, or start a new run: its cost adds to this one's",
        )
    return found
