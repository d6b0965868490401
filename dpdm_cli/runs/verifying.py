"""Verify: whether files are what was written, and whether what they claim follows from what was done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpdm_cli.errors import DamagedFileError, DataError, DpdmError, UsageError
from dpdm_cli.privacy.accountants import Part
from dpdm_cli.privacy.accounting import Claim, claim, compose
from dpdm_cli.privacy.ledger import Ledger, shared_releases
from dpdm_cli.privacy.restating import person_epsilon, replace_one_epsilon, selection_epsilon
from dpdm_cli.privacy.statement import check_statement
from dpdm_cli.runs.checkpoint import load_model
from dpdm_cli.runs.run_folder import MANIFEST, RunFolder
from dpdm_cli.runs.sample_folder import SampleFolder
from dpdm_cli.runs.shards import Shard
from dpdm_cli.runs.writing import FORMATS, Album, open_sink

_COPY_AGAIN = "copy it again from where it was made, or make it anew"


@dataclass(frozen=True)
class Artefact:
    """One thing that was verified.

    Attributes:
        path: where it lies.
        kind: run, model or samples.
        statement: what it claims.
        ledger: the releases behind it.
        claim: what its plan costs, by every accountant.
        taken: what the steps really taken cost.
        checked: what was found to be in order, in words.
    """

    path: Path
    kind: str
    statement: dict[str, Any]
    ledger: Ledger
    claim: Claim
    taken: Claim
    checked: tuple[str, ...]


@dataclass(frozen=True)
class Restated:
    """The claim under another question: the question, epsilon, and where the answer comes from."""

    question: str
    epsilon: float
    source: str


@dataclass(frozen=True)
class Verification:
    """What `verify` found in order.

    Attributes:
        artefacts: in the order given.
        together: the claim for all of them published, if from the same images; None for one artefact.
        relations: which artefacts share releases, in words.
        restated: answers to what else was asked.
    """

    artefacts: tuple[Artefact, ...]
    together: Claim | None = None
    relations: tuple[str, ...] = ()
    restated: tuple[Restated, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "artefacts": [
                {
                    "path": str(found.path),
                    "kind": found.kind,
                    "epsilon": found.statement["epsilon"],
                    "delta": found.statement["delta"],
                    "epsilon_by": dict(found.claim.epsilon_by),
                    "epsilon_of_steps_taken": found.taken.epsilon,
                    "steps": found.ledger.plan.steps,
                    "steps_taken": found.ledger.steps,
                    "text": found.statement["text"],
                    "checked": list(found.checked),
                }
                for found in self.artefacts
            ],
            "together": None if self.together is None else self.together.to_dict(),
            "relations": list(self.relations),
            "restated": [vars(answer) for answer in self.restated],
        }


def verify(
    paths: Sequence[Path | str],
    *,
    replace_one: bool = False,
    images_per_person: int | None = None,
    selection: str | None = None,
) -> Verification:
    """Check artefacts and their claims, one by one and together.

    Args:
        paths: run folders, model files, folders or files of samples; at least one.
        replace_one: restate for neighbours that differ in one image replaced.
        images_per_person: restate for people with up to so many images.
        selection: `geometric:MEAN` restates for the best of a geometric number of runs.

    Raises:
        DataError: nothing there, or a run or set that is not finished.
        DamagedFileError: a file is not what was written.
        PrivacyError: a claim does not hold, or nothing is claimed.
        UsageError: restatements that make no sense.
    """
    if not paths:
        raise UsageError("nothing to verify", "name a run, a model or a set of samples")
    mean_runs = None if selection is None else _mean_runs(selection)
    artefacts = tuple(_named(Path(path).expanduser()) for path in paths)
    plan = artefacts[0].ledger.plan
    if len(artefacts) > 1:
        delta = max(found.ledger.plan.delta for found in artefacts)
        together: Claim | None = compose(_whole(artefacts), delta)
    else:
        together = None
    restated = []
    if replace_one or images_per_person is not None or mean_runs is not None:
        if len(artefacts) > 1:
            raise UsageError(
                "a claim is restated for one artefact at a time",
                "name one, or leave the options out",
            )
        # What is claimed is the plan, so that is what is restated.
        if replace_one:
            restated.append(
                Restated(
                    "one image replaced by another, instead of added or removed",
                    replace_one_epsilon(plan),
                    "PLD of the subsampled Gaussian under replace-one (dp-accounting)",
                )
            )
        if images_per_person is not None:
            restated.append(
                Restated(
                    f"a person with up to {images_per_person} images",
                    person_epsilon(plan, images_per_person),
                    "mixture of Gaussians (Ganesh 2024, arXiv 2401.10294) by PLD (dp-accounting)",
                )
            )
        if mean_runs is not None:
            restated.append(
                Restated(
                    f"the best of a geometric number of such runs, {mean_runs:g} on average, published",
                    selection_epsilon(plan, mean_runs),
                    "Papernot and Steinke 2022 (arXiv 2110.03620) by RDP (dp-accounting)",
                )
            )
    return Verification(artefacts, together, _relations(artefacts), tuple(restated))


def _named(path: Path) -> Artefact:
    """`_inspect`, with the path in front of whatever it has to say."""
    try:
        return _inspect(path)
    except DpdmError as error:
        if str(path) not in error.message:
            raise type(error)(f"{path}: {error.message}", error.hint) from error
        raise


def _inspect(path: Path) -> Artefact:
    if (path.is_dir() and (path / "private").is_dir()) or (path / MANIFEST).is_file():
        return _run(path)
    if path.is_dir() and not (path / "model.safetensors").is_file():
        return _samples(path, path)
    if path.suffix in (".npz", ".zip") and path.is_file():
        return _samples(path, path.parent)
    model = load_model(path)
    return _artefact(path, "model", model.statement, ["the weights and their description"])


def _run(path: Path) -> Artefact:
    folder = RunFolder(path)
    if not folder.is_complete:
        raise DataError(
            f"{path}: this run is not finished: it has no manifest",
            "go on with it by --resume, then verify it",
        )
    folder.check_manifest()
    model = load_model(folder.model)
    checked = ["every file of the manifest", "the weights and their description"]
    try:
        beside = json.loads(folder.statement.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFileError(f"{folder.statement}: {error}", _COPY_AGAIN) from error
    if beside != model.statement:
        raise DamagedFileError(
            f"{folder.statement} is not the statement inside the model", _COPY_AGAIN
        )
    checked.append("the statement beside the model equals the one inside")
    if folder.state.is_file() and model.statement.get("private"):
        _, facts = folder.load_state()
        if facts.get("ledger") != model.statement.get("ledger"):
            raise DamagedFileError(
                f"{folder.state}: its ledger is not the one of the published statement",
                "the folder holds parts of two runs: publish neither",
            )
        checked.append("the run's own ledger equals the published one")
    return _artefact(path, "run", model.statement, checked)


def _samples(path: Path, home: Path) -> Artefact:
    if not (home / "metadata.json").is_file() and not any(home.glob(".sampling*.json")):
        raise DataError(
            f"{path}: neither a run nor a model nor a set of samples",
            "name what `dpdm train` or `dpdm sample` wrote",
        )
    folder = SampleFolder(home)
    facts = folder.recorded or {}
    if not folder.is_complete:
        raise DataError(f"{path}: these samples are not complete", "repeat the same `dpdm sample`")
    try:
        classes = tuple(map(str, facts["classes"]))
        channels, height, width = facts["image_shape"]
        shard = Shard.recorded(facts)
        n = int(facts["n"] if shard is None else facts["shard"]["whole_n"])
        album = Album(
            n=n,
            shape=(channels, height, width),
            classes=classes,
            cycle=tuple(classes.index(name) for name in facts["drawn"]),
            part=None if shard is None else shard.indices(n, int(facts["batch_size"])),
        )
        format = FORMATS[FORMATS.index(facts["format"])]
        statement, written = dict(facts["statement"]), facts["images_sha256"]
    except (AttributeError, KeyError, TypeError, ValueError, UsageError) as error:
        raise DamagedFileError(
            f"{folder.metadata}: its description is damaged: {error!r}", _COPY_AGAIN
        ) from error
    sink = open_sink(format, home, album)
    try:
        if sink.digest() != written:
            raise DamagedFileError(
                f"{home}: the images are not those that were drawn", "draw the samples again"
            )
    finally:
        sink.close()
    known = {"metadata.json", "README.md", "grid.png", "samples.npz", "samples.zip"}
    if format == "png":
        known |= {album.member(index) for index in album.indices}
    if shard is not None:
        known.add(folder.shard_record(shard).name)
    extra = [
        name
        for file in sorted(home.rglob("*"))
        if file.is_file() and (name := file.relative_to(home).as_posix()) not in known
    ]
    if extra:
        raise DamagedFileError(
            f"{home}: {len(extra)} files are none of this set, first {extra[0]}",
            "take them out before the set is published: nobody claims anything for them"
            if shard is None
            else "if shards were copied here, repeat their `dpdm sample` without --shard and with this folder as --out",
        )
    which = "" if shard is None else f" for shard {shard} of {n:,}"
    count = len(album.indices)
    checked = [f"{count:,} images are those that were drawn{which}, and no others lie beside them"]
    return _artefact(path, "samples", statement, checked)


def _artefact(path: Path, kind: str, statement: dict[str, Any], checked: Sequence[str]) -> Artefact:
    ledger = check_statement(statement)
    return Artefact(
        path=path,
        kind=kind,
        statement=statement,
        ledger=ledger,
        claim=claim(ledger.plan),
        taken=claim(ledger.plan, ledger.steps),
        checked=(
            *checked,
            f"the ledger's hash chain over {ledger.releases:,} releases",
            "epsilon, from the recorded plan",
            "the wording of the statement",
        ),
    )


def _whole(artefacts: Sequence[Artefact]) -> list[Part]:
    """The releases behind all artefacts, those that are shared counted once.

    An artefact counts with the releases it claims: those of its plan, made or not.
    """
    releases: list[Part] = []
    seen: list[Ledger] = []
    for found in artefacts:
        ledger = found.ledger
        shared = max((shared_releases(ledger, other) for other in seen), default=0)
        if shared < ledger.releases:
            releases += ledger.plan.parts(first=shared)
        seen.append(ledger)
    return releases


def _relations(artefacts: Sequence[Artefact]) -> tuple[str, ...]:
    found = []
    for index, one in enumerate(artefacts):
        for other in artefacts[index + 1 :]:
            shared = shared_releases(one.ledger, other.ledger)
            if shared == one.ledger.releases == other.ledger.releases:
                found.append(f"{one.path} and {other.path} come from the same run")
            elif shared:
                found.append(
                    f"{one.path} and {other.path} went on separately from one run after release {shared:,}: "
                    "those after it are counted for both"
                )
    return tuple(found)


def _mean_runs(selection: str) -> float:
    kind, _, mean = selection.partition(":")
    try:
        if kind == "geometric":
            return float(mean)
    except ValueError:
        pass
    raise UsageError(
        f"unknown selection {selection!r}", "give geometric:10 for ten runs on average"
    )
