"""What hosts and loaders read at the head of a card: YAML, every value of which is written as JSON.

JSON is YAML (YAML 1.2, section 1.3), so that no name becomes a key, a number or a line of its own. The keys are those
of Hugging Face's Hub and `datasets`.
"""

from __future__ import annotations

import json
import re

from dpdm_cli.errors import UsageError
from dpdm_cli.privacy.statement import PROCEDURAL_STARTS, Statement
from dpdm_cli.sampling.album import TRAIN
from dpdm_cli.sampling.sample_metadata import SampleMetadata
from dpdm_cli.stored import Json

_SIZES = {
    10**3: "n<1K",
    10**4: "1K<n<10K",
    10**5: "10K<n<100K",
    10**6: "100K<n<1M",
    10**7: "1M<n<10M",
    10**8: "10M<n<100M",
    10**9: "100M<n<1B",
}
_LICENSES = {
    *("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"),
    *("cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
}
"""SPDX identifiers that the Hub knows, in its lower case; any other is `other`, with a name."""

_SPDX = re.compile(r"[A-Za-z0-9.+-]+")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def model_head(statement: Statement, base_model: str | None) -> list[str]:
    """Of a model's card; `base_model` is the public one it started from, by its name on the Hub.

    Raises:
        UsageError: that is no such name, or the model started from none.
    """
    if base_model is not None:
        if _HUB_NAME.fullmatch(base_model) is None:
            raise UsageError(
                f"{base_model[:80]!a} is not the name of a model on the Hub", "give OWNER/NAME"
            )
        if statement.init_from is None or statement.init_from in PROCEDURAL_STARTS:
            raise UsageError(
                "the weights did not start from a public model, which --base-model would name",
                "leave out --base-model",
            )
    return _head(
        library_name="dpdm",
        pipeline_tag="unconditional-image-generation",
        **_license(statement),
        tags=["differential-privacy", "diffusion", "synthetic"],
        base_model=base_model,
    )


def data_head(metadata: SampleMetadata, statement: Statement) -> list[str]:
    """Of the card of a set of images."""
    subject = "images" if metadata.dataset == "custom" else metadata.dataset
    task = "image-classification" if metadata.classes else "unconditional-image-generation"
    loaded: Json = {}
    if pattern := _pattern(metadata):
        config: Json = {"config_name": "default"}
        config["data_files"] = [{"split": TRAIN, "path": pattern}]
        if metadata.format == "png":  # else a set of one class has no labels
            config["drop_labels"] = not metadata.classes
        loaded["configs"] = [config]
        loaded["dataset_info"] = {"features": _features(metadata)}
    return _head(
        **_license(statement),
        pretty_name=f"Synthetic {subject}, {statement.headline}",
        tags=["synthetic", "differential-privacy"],
        task_categories=[task],
        size_categories=[_size_category(metadata.count)],
        **loaded,
    )


def _license(statement: Statement) -> dict[str, str]:
    """The license that the publisher stated; nothing without."""
    said = statement.to_json().get("said_by_the_publisher")
    name = said.get("license") if isinstance(said, dict) else None
    if not isinstance(name, str) or _SPDX.fullmatch(name) is None:
        return {}
    if name.lower() in _LICENSES:
        return {"license": name.lower()}
    return {"license": "other", "license_name": name.lower()}


def _pattern(metadata: SampleMetadata) -> str | None:
    """Which files `datasets` is to read; None where it has no reader for them."""
    if metadata.format == "npz":
        return None
    return f"{TRAIN}/**" if metadata.format == "png" else f"samples.{metadata.format}"


def _features(metadata: SampleMetadata) -> list[Json]:
    columns: list[Json] = [{"name": "image", "dtype": "image"}]
    if metadata.classes:
        names = {str(label): name for label, name in enumerate(metadata.classes)}
        columns.append({"name": "label", "dtype": {"class_label": {"names": names}}})
        if metadata.format == "zip":
            columns.append({"name": "class", "dtype": "string"})
    return columns


def _size_category(count: int) -> str:
    return next((name for below, name in _SIZES.items() if count < below), "n>1B")


def _head(**values: object) -> list[str]:
    given = {name: value for name, value in values.items() if value is not None}
    return ["---", *(f"{name}: {_scalar(value)}" for name, value in given.items()), "---", ""]


def _scalar(value: object) -> str:
    # As they are: YAML takes an escaped pair of surrogates for two characters.
    return json.dumps(value, ensure_ascii=False)
