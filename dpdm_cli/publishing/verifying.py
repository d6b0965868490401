"""Verify: whether files are what was written, and whether what they claim follows from what was done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dpdm_cli.checkpoint import Model, load_model
from dpdm_cli.data.readers.parquet import ImageTable
from dpdm_cli.errors import DamagedFileError, DataError, DpdmError, PrivacyError, UsageError
from dpdm_cli.files import check_digests, check_plain, expanded, others_in, read_json
from dpdm_cli.privacy.accounting.accountants import Part
from dpdm_cli.privacy.accounting.claims import Claim, claim, compose
from dpdm_cli.privacy.accounting.restating import (
    person_epsilon,
    replace_one_epsilon,
    selection_epsilon,
)
from dpdm_cli.privacy.circumstances import MOST_RUNS
from dpdm_cli.privacy.ledger import LONGEST_CHAIN, PublishedLedger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.statement import AnyStatement, Statement
from dpdm_cli.publishing.verification import Artefact, Restated, Verification
from dpdm_cli.reporter import Reporter, heard
from dpdm_cli.sampling.finished_images import finished_images
from dpdm_cli.sampling.sample_folder import SampleFolder, is_sample_folder
from dpdm_cli.sampling.sample_metadata import GRID
from dpdm_cli.sampling.writing import open_sink
from dpdm_cli.stored import COPY_AGAIN, same_json
from dpdm_cli.training.config.public_facts import check_sources
from dpdm_cli.training.folder.manifest import MANIFEST
from dpdm_cli.training.folder.run_folder import RunFolder


def verify(
    paths: Path | str | Sequence[Path | str],
    *,
    replace_one: bool = False,
    images_per_person: int | None = None,
    selection: str | None = None,
    reporter: Reporter | None = None,
) -> Verification:
    """Check artefacts and their claims, one by one and together.

    Args:
        paths: one or more run folders, model files, folders or files of samples.
        replace_one: restate for neighbours that differ in one record replaced.
        images_per_person: restate a claim for one image for people with up to so many.
        selection: `geometric:MEAN` restates for the best of a geometric number of runs, `runs:K` for K of them.
        reporter: gets progress; by default a notebook shows it.

    Raises:
        DataError: nothing there, or a run or set that is not finished.
        DamagedFileError: a file is not what was written.
        PrivacyError: a claim does not hold, or nothing is claimed.
        UsageError: restatements that make no sense; claims for one image and for one person together.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    if not paths:
        raise UsageError("nothing to verify", "name a run, a model or a set of samples")
    runs = None if selection is None else _runs(selection)
    artefacts = tuple(_named(expanded(path)) for path in paths)
    plan = artefacts[0].ledger.plan
    if len(artefacts) > 1:
        if len({found.ledger.plan.unit for found in artefacts}) > 1:
            raise UsageError(
                "some of these claims are for one image and some for one person, which do not add up to a claim",
                "verify those of one unit at a time",
            )
        delta = max(found.ledger.plan.delta for found in artefacts)
        together: Claim | None = compose(_whole(artefacts), delta, plan.unit)
    else:
        together = None
    restated = []
    if replace_one or images_per_person is not None or runs is not None:
        if len(artefacts) > 1:
            raise UsageError(
                "a claim is restated for one artefact at a time",
                "name one, or leave the options out",
            )
        # What is claimed is the plan, so that is what is restated.
        if replace_one:
            restated.append(
                Restated(
                    f"{plan.unit} replaced by another, instead of added or removed",
                    replace_one_epsilon(plan),
                    "PLD of the subsampled Gaussian under replace-one (dp-accounting)",
                )
            )
        if images_per_person is not None:
            if plan.record == "person":
                raise UsageError(
                    "this claim is for one person already, however many images they have",
                    "leave out --images-per-person",
                )
            restated.append(
                Restated(
                    f"a person with up to {images_per_person} images",
                    _person_epsilon(plan, images_per_person, heard(reporter)),
                    "mixture of Gaussians (Ganesh 2024, arXiv 2401.10294) by PLD (dp-accounting)",
                )
            )
        if isinstance(runs, float):
            restated.append(
                Restated(
                    f"the best of a geometric number of such runs, {runs:g} on average, published",
                    selection_epsilon(plan, runs),
                    "Papernot and Steinke 2022 (arXiv 2110.03620) by RDP (dp-accounting)",
                )
            )
        elif runs is not None:
            restated.append(
                Restated(
                    f"one of {runs:,} such runs, chosen by what they all gave and not by the images",
                    compose(
                        [(q, sigma, runs * n) for q, sigma, n in plan.parts()], plan.delta
                    ).epsilon,
                    "all of them composed",
                )
            )
    return Verification(artefacts, together, _relations(artefacts), tuple(restated))


def _person_epsilon(plan: PrivacyPlan, images: int, reporter: Reporter) -> float:
    title = f"claim for a person with up to {images} images"
    reporter.note(f"{title}: may take a minute")
    with reporter.progress(title, len(plan.parts()), "parts of the plan") as progress:
        return person_epsilon(plan, images, progress.advance)


def _named(path: Path) -> Artefact:
    """`_inspect`, with the path in front of whatever it has to say."""
    try:
        return _inspect(path)
    except DpdmError as error:
        if str(path) not in error.message:
            raise type(error)(f"{path}: {error.message}", error.hint) from error
        raise


def _inspect(path: Path) -> Artefact:
    if path.is_dir():
        of_run = ("private", MANIFEST, "model.safetensors")
        # A class may be called by one of these names.
        is_run = not is_sample_folder(path) and any((path / name).exists() for name in of_run)
        return _run(path) if is_run else _samples(path, path)
    if path.suffix in (".npz", ".parquet", ".zip") and path.is_file():
        return _samples(path, path.parent)
    model = load_model(path)
    return _of_model(path, "model", model, ["the weights and their description"])


def _run(path: Path) -> Artefact:
    folder = RunFolder(path)
    if not folder.is_complete:
        raise DataError(
            f"{path}: this run is not finished: it has no manifest",
            "complete it with --resume, then verify it",
        )
    check_plain(path, but=folder.private.name)
    # Sets of samples have a manifest of their own.
    if others := [entry for entry in folder.check_manifest() if not is_sample_folder(entry)]:
        raise DamagedFileError(
            f"{path}: {_entries(len(others), 'not in its manifest')}{others[0].name[:80]!a}",
            "take them out before the folder is published: nobody claims anything for them",
        )
    model = load_model(folder.model)
    checked = [
        "every file of the manifest, and no others beside them",
        "the weights and their description",
    ]
    if not same_json(read_json(folder.statement), model.statement.to_json()):
        raise DamagedFileError(
            f"{folder.statement} is not the statement inside the model", COPY_AGAIN
        )
    checked.append("the statement beside the model equals the one inside")
    if previews := folder.manifest().previews:
        checked.append(
            f"{len(previews):,} previews: drawn from iterates of the accounted run, which the claim covers too"
        )
    if folder.private.exists():
        checked += _private(folder, model.statement)
    return _of_model(path, "run", model, checked)


def _private(folder: RunFolder, statement: AnyStatement) -> list[str]:
    """Compare a run's own ledger with the published one; gives what was checked of `private/`, and what was not."""
    rest = "private/ is not to be published: nothing is claimed for its other files"
    try:
        with folder.state.open("rb"):
            pass
    except PermissionError:
        return [
            "not checked: private/, which this user cannot read. What is published needs nothing of it; who trained "
            "can compare the run's own ledger"
        ]
    except OSError:
        return [rest]
    if not isinstance(statement, Statement):
        return [rest]
    own = folder.load_state()[1].ledger
    if own is None or own.published() != statement.ledger:
        raise DamagedFileError(
            f"{folder.state}: its ledger is not the one of the published statement",
            "the folder holds parts of two runs: publish neither",
        )
    checked = ["the published ledger is what may be known of the run's own", rest]
    if own.releases > LONGEST_CHAIN:
        return [*checked, f"not checked: the run's own chain over {own.releases:,} releases"]
    own.check_chain()
    return checked


def _entries(count: int, what: str) -> str:
    """How many are something, before the name of the first of them."""
    return f"1 entry is {what}, " if count == 1 else f"{count:,} entries are {what}, first "


def _of_model(path: Path, kind: str, model: Model, checked: Sequence[str]) -> Artefact:
    return _artefact(
        path, kind, model.statement, checked, (model.dataset, model.classes, model.image_shape)
    )


def _samples(path: Path, home: Path) -> Artefact:
    if not (home / "metadata.json").is_file() and not any(home.glob(".sampling*.json")):
        raise DataError(
            f"{path}: neither a run nor a model nor a set of samples",
            "name what `dpdm train` or `dpdm sample` wrote",
        )
    check_plain(home)
    try:
        folder = SampleFolder(home)
    except UsageError as error:  # what lies here is of no kind that dpdm writes
        raise DamagedFileError(error.message, COPY_AGAIN) from error
    metadata = folder.recorded
    if metadata is None or not folder.is_complete:
        raise DataError(f"{path}: these samples are not complete", "repeat the same `dpdm sample`")
    try:
        digests = metadata.sealed
        if metadata.format == "png":
            _check_count(metadata.count, home)
        sink = open_sink(metadata.format, home, metadata.album)
    except (DamagedFileError, DataError) as error:
        raise DamagedFileError(
            f"{folder.metadata}: is not what was written: {error.message}", COPY_AGAIN
        ) from error
    album, shard = metadata.album, metadata.shard
    try:
        if sink.digest() != digests.images:
            raise DamagedFileError(
                f"{home}: the images are not those that were drawn", "draw the samples again"
            )
    finally:
        sink.close()
    known = {folder.metadata.name, *digests.files}
    known |= {*map(album.member, album.indices)} if metadata.format == "png" else {sink.path.name}
    if shard is not None and (record := folder.shard_record(shard)).is_file():
        known.add(record.name)
        if folder.complete_shards().get(shard) != metadata:
            raise DamagedFileError(f"{record}: is not a copy of {folder.metadata}", COPY_AGAIN)
    if others := others_in(home, known):
        raise DamagedFileError(
            f"{home}: {_entries(len(others), 'none of this set')}{others[0][:80]}",
            "take them out before the set is published: nobody claims anything for them"
            if shard is None
            else "if shards were copied here, repeat their `dpdm sample` without --shard and with this folder as --out",
        )
    wanted = {GRID: digests.files.get(GRID)} if album.indices else {}
    check_digests(home, {**wanted, **digests.files})
    for _ in finished_images(
        metadata.format, home, album, replace(metadata, digests=None).to_json()
    ):
        pass  # each is looked at as it is read
    which = "" if shard is None else f" for shard {shard} of {metadata.n:,}"
    count = len(album.indices)
    checked = [
        f"{count:,} images are those that were drawn{which}, and no others beside them",
        "their picture and their description",
    ]
    if metadata.format == "parquet":
        with ImageTable(sink.path) as table:
            if not table.is_of_this_release:
                checked.append("not checked: bytes beside the columns, which another pyarrow wrote")
    about = metadata.dataset, metadata.classes, metadata.image_shape
    return _artefact(path, "samples", metadata.statement, checked, about)


def _check_count(count: int, home: Path) -> None:
    """Refuse more images than there are files, before each is given a name."""
    found = sum(len(files) for _, _, files in os.walk(home))
    if count > found:
        raise DamagedFileError(f"it is of {count:,} images, but {found:,} files lie here")


def _artefact(
    path: Path,
    kind: str,
    statement: AnyStatement,
    checked: Sequence[str],
    about: tuple[str, tuple[str, ...], tuple[int, int, int]],
) -> Artefact:
    """What is known of an artefact whose claim holds; `about` is its data set, classes and (C, H, W)."""
    if not isinstance(statement, Statement):
        raise PrivacyError(
            f"no privacy is claimed: {statement.text}",
            "publish it only if its training images may be published",
        )
    statement.check()
    ledger = statement.ledger
    dataset, classes, shape = about
    check_sources(
        statement.public_inputs,
        dataset=dataset,
        dataset_size=ledger.plan.dataset_size,
        classes=classes,
        shape=shape,
        unit=ledger.plan.record,
    )
    return Artefact(
        path=path,
        kind=kind,
        statement=statement,
        claim=claim(ledger.plan),
        taken=claim(ledger.plan, ledger.steps),
        checked=(
            *checked,
            f"the ledger's hash chain over the processes that made {ledger.releases:,} releases",
            "epsilon, attack risk and budget by part, from the recorded plan",
            "the wording of the statement",
        ),
    )


def _whole(artefacts: Sequence[Artefact]) -> list[Part]:
    """The releases behind all artefacts, those of one run counted once.

    An artefact counts with the releases it claims: those of its plan, made or not. Of runs that went on from one saved
    state all count for both: when they parted follows the clock, and so the private images, and a cost that did too
    would be no guarantee.
    """
    releases: list[Part] = []
    seen: list[PublishedLedger] = []
    for found in artefacts:
        if found.ledger not in seen:
            releases += found.ledger.plan.parts()
            seen.append(found.ledger)
    return releases


def _relations(artefacts: Sequence[Artefact]) -> tuple[str, ...]:
    found = []
    for index, one in enumerate(artefacts):
        for other in artefacts[index + 1 :]:
            if one.ledger == other.ledger:
                found.append(f"{one.path} and {other.path} come from the same run")
            elif not {*one.ledger.processes}.isdisjoint(other.ledger.processes):
                found.append(
                    f"{one.path} and {other.path} continued one run separately: what both did is counted for both"
                )
    return tuple(found)


def _runs(selection: str) -> float | int:
    """What is asked for: a mean number of runs, or, whole, a number of them."""
    kind, _, number = selection.partition(":")
    try:
        if kind == "geometric":
            return float(number)
        if kind == "runs" and 1 <= int(number) <= MOST_RUNS:
            return int(number)
    except ValueError:
        pass
    raise UsageError(
        f"unknown selection {selection[:80]!r}",
        "give geometric:10 for ten runs on average, or runs:10 for ten",
    )
