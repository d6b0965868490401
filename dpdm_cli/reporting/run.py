"""`dpdm report`: one page about a model and what was drawn from it. Verified files in, one HTML file out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from dpdm_cli.checkpoint import CUSTOM, Model, load_model
from dpdm_cli.compute.device import resolve_device, to_device
from dpdm_cli.diffusion.generation import SamplerSettings, generate
from dpdm_cli.errors import DataError, PrivacyError, UsageError
from dpdm_cli.evaluation.classifiers.networks import EPOCHS
from dpdm_cli.files import CARD, disk_errors, expanded, private_folder, write_bytes
from dpdm_cli.privacy.accounting.attack_risk import AttackRisk, plan_risk
from dpdm_cli.privacy.accounting.claims import round_up
from dpdm_cli.publishing.verification import Artefact
from dpdm_cli.publishing.verifying import verify
from dpdm_cli.reporter import Reporter, SilentReporter
from dpdm_cli.reporting.budget import BudgetPart, budget_of
from dpdm_cli.reporting.page import Drawn, Page, Row, loading, render
from dpdm_cli.reporting.private_figures import PrivateFigures, private_figures
from dpdm_cli.reporting.risks import risk_json
from dpdm_cli.sampling.finished_images import finished_images
from dpdm_cli.sampling.png import Pixels
from dpdm_cli.sampling.sample_folder import SampleFolder, is_sample_folder
from dpdm_cli.sampling.sample_metadata import SampleMetadata
from dpdm_cli.stored import Json

PAGE = "report.html"

_EACH, _OF_MANY = 10, 5  # images of a class, and where there are many classes
_MANY, _MOST_CLASSES = 20, 100
_LOOKED_AT = 20_000  # images, for the first ones of each class
_SEED = 0
_ANOTHER_PLACE = "free space or choose another --out"


@dataclass(frozen=True, kw_only=True)
class ReportResult:
    """A report that was written, and what is in it.

    Attributes:
        file: the page.
        size: bytes of it.
        is_private: whether real images have a part in it.
        epsilon, delta: of the claim.
        attack_risk: what its plan lets somebody find out at most.
        budget: its parts.
        figures: what real images say of each set of samples, by the path of the set; empty unless asked for.
    """

    file: Path
    size: int
    is_private: bool
    epsilon: float
    delta: float
    attack_risk: AttackRisk
    budget: tuple[BudgetPart, ...]
    figures: dict[str, PrivateFigures]

    def to_dict(self) -> Json:
        """A JSON object."""
        return {
            "file": str(self.file),
            "bytes": self.size,
            "private": self.is_private,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "attack_risk": risk_json(self.attack_risk),
            "budget": [asdict(part) for part in self.budget],
            "figures": {path: _figures_json(found) for path, found in self.figures.items()},
        }


def report(
    run: Path | str,
    samples: Sequence[Path | str] = (),
    *,
    out: Path | str | None = None,
    private: bool = False,
    against: str | None = None,
    models: Sequence[str] | None = None,
    epochs: int = EPOCHS,
    data_dir: Path | None = None,
    download: bool = True,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> ReportResult:
    """Write one page about a model and sets of images drawn from it, for people who decide and people who compute.

    Everything is verified first; what `verify` refuses is refused here. The page needs no network and no script. It
    may be published, unless it is `private`.

    Args:
        run: a finished run or release, a model file, or a set of samples.
        samples: further sets, drawn from the same model. Without any, a few images are drawn for the page.
        out: the page, a new file outside of what it is about; `report.html` by default. A private one lies in a folder
            called private, by default in that of the run.
        private: also what real images say: accuracies, distances, nearest real images. The page is not to be published.
        against: the real images: a named set, folder or zip; by default the named set that the model was trained on.
        models, epochs, data_dir, download, device: as for `classify`.
        reporter: gets remarks and progress.

    Raises:
        UsageError: options that do not go together, samples of another run, a page that exists.
        PrivacyError: a private page outside of private/; a claim that does not hold or is not made.
        DataError, DamagedFileError: see `verify` and `classify`.
        ResourceError: it cannot be written.
    """
    reporter = reporter or SilentReporter()
    paths = [expanded(path) for path in (run, *samples)]
    target = _target(paths, out, private)
    if not private and (against is not None or models is not None):
        raise UsageError(
            "real images have no part in a report that may be published",
            "add --private, or leave out --against and --model",
        )
    artefacts = verify(paths).artefacts
    whole, sets = artefacts[0], [found for found in artefacts if found.kind == "samples"]
    _check_same_run(artefacts)
    if private and not sets:
        raise UsageError(
            f"{whole.path}: no samples to compare with real images",
            f"name a set: dpdm report {whole.path} SYNTH --private; `dpdm sample` draws one",
        )
    plan = whole.ledger.plan
    model = None if whole.kind == "samples" else _model_of(whole)
    described = {found.path: _metadata(found) for found in sets}
    figures: dict[str, PrivateFigures] = {}
    for path, metadata in described.items() if private else ():
        figures[str(path)] = private_figures(
            path,
            _against(against, metadata),
            metadata.classes,
            models=models,
            epochs=epochs,
            device=device,
            data_dir=data_dir,
            download=download,
            reporter=reporter,
        )
    drawn = [_set_of(found, described[found.path], figures.get(str(found.path))) for found in sets]
    if model is not None and not sets:
        reporter.note("no samples are given: a few are drawn for the page")
        drawn = [_drawn_now(model, device)]
    page = Page(
        statement=whole.statement,
        risk=plan_risk(plan),
        budget=budget_of(plan),
        dataset=model.dataset if model else described[whole.path].dataset,
        model={} if model is None else _facts(model),
        checked=() if model is None else whole.checked,
        epsilon_by={name: round_up(e, 4) for name, e in whole.claim.epsilon_by.items()},
        drawn=tuple(drawn),
    )
    content = render(page).encode()
    with disk_errors(target, _ANOTHER_PLACE):
        if private:
            private_folder(target.parent)
        write_bytes(target, content, private=private)
    return ReportResult(
        file=target,
        size=len(content),
        is_private=private,
        epsilon=page.statement.epsilon,
        delta=page.statement.delta,
        attack_risk=page.risk,
        budget=page.budget,
        figures=figures,
    )


def _target(paths: Sequence[Path], out: Path | str | None, private: bool) -> Path:
    """Where the page goes, before anything is read."""
    closed = _private_place(paths[0]) / PAGE
    if out is None:
        target = closed if private else Path(PAGE)
    else:
        target = expanded(out)
    if private and target.absolute().parent.name != "private":
        raise PrivacyError(
            f"{target}: a report with figures of real images stays in a folder called private",
            f"choose --out {closed}",
        )
    for path in paths:
        is_own = private and target.parent.resolve() == _private_place(path).resolve()
        if path.is_dir() and target.resolve().is_relative_to(path.resolve()) and not is_own:
            raise UsageError(
                f"{target} is in {path}, which would hold a file that is not in its manifest",
                "choose a place outside",
            )
    with disk_errors(target, _ANOTHER_PLACE):
        if target.exists() or target.is_symlink():
            raise UsageError(f"{target} exists already", "choose another --out, or remove it")
        if not private and not target.parent.is_dir():
            raise DataError(
                f"there is no folder {target.parent}", f"make it: mkdir -p {target.parent}"
            )
    return target


def _private_place(path: Path) -> Path:
    """The folder for what is private of a run or a set: that of the run itself, or one beside what may be published."""
    is_published = is_sample_folder(path) or (path / CARD).is_file()
    return (path if path.is_dir() and not is_published else path.parent) / "private"


def _check_same_run(artefacts: Sequence[Artefact]) -> None:
    first = artefacts[0]
    for found in artefacts[1:]:
        if found.kind != "samples":
            raise UsageError(
                f"{found.path} is a {found.kind}, and a report is about one model",
                "give sets of samples after the first; `dpdm compare` is for several runs",
            )
        if found.ledger != first.ledger:
            raise UsageError(
                f"{found.path} was not drawn from the model of {first.path}",
                "write a report for each, or compare them: dpdm compare",
            )


def _against(against: str | None, metadata: SampleMetadata) -> str:
    if against is None and metadata.dataset == CUSTOM:
        raise UsageError(
            "the samples do not say which real images to compare with",
            "name them with --against: a folder or zip with train/ and test/",
        )
    return metadata.dataset if against is None else against


def _model_of(artefact: Artefact) -> Model:
    path = artefact.path
    return load_model(path / "model.safetensors" if path.is_dir() else path)


def _metadata(artefact: Artefact) -> SampleMetadata:
    """What a set says of itself, without the digests."""
    metadata = _folder(artefact).recorded
    assert metadata, "it was verified"
    return replace(metadata, digests=None)


def _folder(artefact: Artefact) -> SampleFolder:
    return SampleFolder(artefact.path if artefact.path.is_dir() else artefact.path.parent)


def _facts(model: Model) -> dict[str, str]:
    channels, side, _ = model.image_shape
    parameters = sum(each.numel() for each in model.denoiser.network.parameters())
    return {
        "draws": f"{side}x{side} {'grey' if channels == 1 else 'colour'} images",
        "classes": ", ".join(model.classes) or "none: unconditional",
        "network": f"a diffusion U-Net of {parameters:,} parameters",
        "SHA-256 of model.safetensors": model.sha256,
    }


def _set_of(artefact: Artefact, metadata: SampleMetadata, private: PrivateFigures | None) -> Drawn:
    """A set of samples, by its first images of each class."""
    folder = _folder(artefact)
    sealed = folder.recorded.sealed if folder.recorded else None
    assert sealed, "it was verified"
    sampler = ", ".join(f"{name} {value}" for name, value in metadata.sampler.to_dict().items())
    shown, left_out = _first(metadata, folder.path)
    names = [metadata.classes[label] if metadata.cycle else "" for label in shown]
    shard = "" if metadata.shard is None else f", shard {metadata.shard} of {metadata.n:,}"
    return Drawn(
        title=f"{metadata.count:,} synthetic images",
        about={
            "images": f"{metadata.count:,}, {metadata.format}{shard}",
            "classes": ", ".join(metadata.drawn) or "none",
            "sampler": f"{sampler}; seed {metadata.seed}",
            "SHA-256 of the model": metadata.checkpoint_sha256,
            "SHA-256 of the images": sealed.images,
        },
        rows=tuple(
            Row.of(name, images) for name, images in zip(names, shown.values(), strict=True)
        ),
        left_out=left_out,
        loading=loading(metadata),
        checked=artefact.checked,
        private=private,
    )


def _first(metadata: SampleMetadata, folder: Path) -> tuple[dict[int, list[Pixels]], int]:
    """The first images of each class by label, and how many classes are left out; unlabelled ones by rows."""
    album = metadata.album
    labels = sorted(set(album.cycle))
    each = _EACH if len(labels) <= _MANY else _OF_MANY
    label_of: Callable[[int], int] = album.label if album.cycle else lambda index: index // _EACH
    shown: dict[int, list[Pixels]] = {}
    wanted = labels[:_MOST_CLASSES] or list(range(each))
    for start, rows in finished_images(metadata.format, folder, album, metadata.to_json()):
        for index, image in enumerate(rows, start):
            found = shown.setdefault(label_of(index), [])
            if len(found) < each:
                found.append(image)
        is_whole = all(len(shown.get(label, ())) == each for label in wanted)
        if is_whole or start > _LOOKED_AT:
            break
    kept = {label: shown[label] for label in wanted if label in shown}
    return kept, max(0, len(labels) - len(wanted))


def _drawn_now(model: Model, device: str) -> Drawn:
    """A few images of each class, drawn for the page."""
    where = resolve_device(device)
    labels = list(range(min(len(model.classes), _MANY)))
    count = _EACH * (len(labels) or 4)
    settings = SamplerSettings.default(has_prior=model.denoiser.prior is not None)
    images = generate(
        to_device(model.denoiser, where),
        torch.arange(count, device=where),
        torch.tensor(labels, device=where).repeat_interleave(_EACH) if labels else None,
        model.image_shape,
        settings,
        seed=_SEED,
    )
    names = [model.classes[label] for label in labels] or [""] * 4
    parts = torch.split(images.cpu(), _EACH)
    return Drawn(
        title="What the model draws",
        about={"sampler": f"{settings}; seed {_SEED}"},
        rows=tuple(
            Row.of(name, list(part.numpy())) for name, part in zip(names, parts, strict=True)
        ),
        left_out=max(0, len(model.classes) - len(labels)),
    )


def _figures_json(found: PrivateFigures) -> Json:
    return {
        "against": found.against,
        "majority": found.majority,
        "accuracies": {
            each.title: {
                "accuracy": each.accuracy,
                "balanced": each.balanced,
                "recalls": dict(each.recalls),
            }
            for each in found.accuracies
        },
        "features": found.features,
        "distance": found.distance,
        "compared": list(found.compared),
        "by_class": [asdict(each) for each in found.by_class],
        "precision_recall": found.manifolds and asdict(found.manifolds),
    }
